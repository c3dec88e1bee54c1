//! For how long a client is let in: what it was begun to be answered ends with that.

use std::future::{Future, pending};
use std::pin::Pin;
use std::sync::Arc;

use axum::body::Body;
use axum::response::Response;
use futures_util::StreamExt;
use hyper::body::Body as _;

/// How long a client is let in; for good where nothing ends it. It is an extension of requests that something does.
#[derive(Clone, Default)]
pub(super) struct Stay(Option<Arc<Over>>);

/// Makes a future that is over when the client is no longer let in. Cancel-safe.
type Over = dyn Fn() -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync;

impl Stay {
    /// Until what `over` makes is over; each that it makes has to see an end that was before it.
    pub(super) fn until<F: Future<Output = ()> + Send + 'static>(
        over: impl Fn() -> F + Send + Sync + 'static,
    ) -> Self {
        Self(Some(Arc::new(move || Box::pin(over()))))
    }

    /// Returns when it is over.
    async fn over(self) {
        match self.0 {
            Some(over) => over().await,
            None => pending().await,
        }
    }

    /// What `work` comes to; nothing where the client is no longer let in before.
    pub(super) async fn limit<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        // What is lost of the work is the client's alone.
        tokio::select! {
            done = work => Some(done),
            () = self.clone().over() => None,
        }
    }

    /// `answer` with a body that ends then, if it is one that goes on.
    pub(super) fn limit_body(self, answer: Response) -> Response {
        answer.map(|body| match body.size_hint().exact() {
            Some(_) => body,
            None => Body::from_stream(body.into_data_stream().take_until(Box::pin(self.over()))),
        })
    }
}
