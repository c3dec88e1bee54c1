//! Answering many clients, none of which may cost the worker more than a bounded share of what it has: connections,
//! descriptors, time, memory.

use std::convert::Infallible;
use std::fs::File;
use std::future::{Future, ready};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use http_body_util::BodyExt;
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Sleep, sleep, timeout};
use tracing::{debug, warn};
use vm_model::Caller;

use crate::access::{Access, Peer};
use crate::connections::{Admission, Connections, Entry, Party, Place};

/// How long a client may take from one request to the next, and for the head of a request.
const HEAD: Duration = Duration::from_secs(10);
/// How long a client may take for the body of a request.
const BODY: Duration = Duration::from_secs(10);
/// How much of a connection is kept in memory; also the longest head.
const BUFFER: usize = 64 << 10;
/// Pause after a connection could not be taken, for want of a descriptor or memory.
const RETRY: Duration = Duration::from_millis(100);
/// What a client hears when all others are being answered.
const BUSY: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nconnection: close\r\n\
content-length: 99\r\n\r\n{\"code\":\"too_many\",\"message\":\"the worker answers too many clients already\",\"what\":null,\"hint\":null}";

/// Where clients come from.
pub(crate) trait Listener {
    /// A client's connection, as it comes.
    type Socket: Send + 'static;
    /// The connection on which it is spoken with.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;
    /// What the log calls it.
    const NAME: &'static str;
    /// Who can connect.
    const ENTRY: Entry = Entry::Closed;

    /// The next client. Cancel-safe.
    fn next(&self) -> impl Future<Output = io::Result<Self::Socket>>;

    /// Who is at the other end of `socket`.
    fn caller(socket: &Self::Socket) -> Caller;

    /// Tells a client that it cannot be answered, if it takes that at once.
    fn refuse(socket: &Self::Socket);

    /// What must be done with the client before it is spoken with. It takes as long as the client lets it.
    fn open(&self, socket: Self::Socket) -> impl Future<Output = io::Result<Self::Stream>> + Send + 'static;
}

impl Listener for UnixListener {
    type Socket = UnixStream;
    type Stream = UnixStream;
    const NAME: &'static str = "the admin socket";

    async fn next(&self) -> io::Result<UnixStream> {
        self.accept().await.map(|(stream, _)| stream)
    }

    /// The kernel tells of whoever connected; where it does not, it is nobody.
    fn caller(stream: &UnixStream) -> Caller {
        match stream.peer_cred() {
            Ok(found) => Caller::process(found.uid(), found.gid(), found.pid()),
            Err(_) => Caller::UNKNOWN,
        }
    }

    fn refuse(stream: &UnixStream) {
        // Its buffer is empty; if it does not take this, the end of the connection says enough.
        let _ = stream.try_write(BUSY);
    }

    fn open(&self, stream: UnixStream) -> impl Future<Output = io::Result<UnixStream>> + Send + 'static {
        ready(Ok(stream))
    }
}

impl Listener for TcpListener {
    type Socket = TcpStream;
    type Stream = TcpStream;
    const NAME: &'static str = "the metrics address";

    async fn next(&self) -> io::Result<TcpStream> {
        self.accept().await.map(|(stream, _)| stream)
    }

    /// One that has gone already has no address.
    fn caller(stream: &TcpStream) -> Caller {
        stream.peer_addr().map_or(Caller::UNKNOWN, |address| Caller::at(address.ip().to_canonical()))
    }

    fn refuse(stream: &TcpStream) {
        let _ = stream.try_write(BUSY);
    }

    fn open(&self, stream: TcpStream) -> impl Future<Output = io::Result<TcpStream>> + Send + 'static {
        ready(Ok(stream))
    }
}

/// Answers on `listener` with `router`, at most `limit` clients at a time, until `shutdown` is over; then what is being
/// answered is finished.
pub(crate) async fn serve<L: Listener>(
    listener: &L,
    router: Router,
    access: Access,
    limit: usize,
    shutdown: impl Future<Output = ()>,
) {
    let connections = Connections::new(limit, Party::worker(), L::ENTRY);
    let (ending, ended) = watch::channel(());
    let mut tasks = JoinSet::new();
    let mut reserve = Reserve::default();
    reserve.refill();
    tokio::pin!(shutdown);
    loop {
        // All arms are cancel-safe.
        tokio::select! {
            () = &mut shutdown => break,
            Some(_) = tasks.join_next() => reserve.refill(),
            accepted = listener.next() => match accepted {
                Ok(stream) => {
                    let peer = Peer { caller: L::caller(&stream), access };
                    let admission = connections.admit(peer.caller.into());
                    if let Some(place) = admit::<L>(admission, &stream, &mut tasks).await {
                        let number = place.number();
                        let client = Client { peer, place, ended: ended.clone() };
                        let task = tasks.spawn(client.converse(listener.open(stream), router.clone()));
                        connections.set_task(number, task);
                    }
                }
                Err(problem) => {
                    // With the one that was kept back the client is let in after all.
                    if !reserve.release() {
                        warn!(%problem, "a client of {} was not let in", L::NAME);
                        sleep(RETRY).await;
                    }
                }
            },
        }
    }
    drop(ending);
    while tasks.join_next().await.is_some() {}
}

/// The place of a client that is let in; who makes room for it is gone afterwards.
async fn admit<L: Listener>(
    admission: Admission,
    stream: &L::Socket,
    tasks: &mut JoinSet<()>,
) -> Option<Place> {
    match admission {
        Admission::Admitted { place, evicted } => {
            if let Some(evicted) = evicted {
                evicted.abort();
                // Whichever it was that ended: there is room then.
                tasks.join_next().await;
            }
            Some(place)
        }
        Admission::Refused => {
            warn!("a client of {} was refused: all others are being answered", L::NAME);
            L::refuse(stream);
            None
        }
    }
}

/// One client that was let in.
struct Client {
    peer: Peer,
    place: Place,
    /// Closed when the worker ends.
    ended: watch::Receiver<()>,
}

impl Client {
    /// Speaks with it, once its connection is `opened`, until either has had enough.
    async fn converse<S>(self, opened: impl Future<Output = io::Result<S>>, router: Router)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Self { peer, place, mut ended } = self;
        let late = || io::Error::new(io::ErrorKind::TimedOut, "the connection was not opened in time");
        let stream = match timeout(HEAD, opened).await.map_err(|_| late()).flatten() {
            Ok(stream) => stream,
            Err(problem) => {
                debug!(%problem, "a client never came");
                return;
            }
        };
        let place = Arc::new(place);
        let answers = TowerToHyperService::new(router);
        let service = service_fn(move |mut request: hyper::Request<Incoming>| {
            let answering = place.answer();
            request.extensions_mut().insert(peer);
            request.extensions_mut().insert(Arc::clone(&place));
            let answer = answers.call(request.map(TimedBody::new));
            async move {
                let answer = answer.await?;
                answering.stream();
                Ok::<_, Infallible>(answer.map(|body| {
                    body.map_frame(move |frame| {
                        let _ = &answering;
                        frame
                    })
                }))
            }
        });
        let mut builder = http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(BUFFER);
        let connection = builder.serve_connection(TokioIo::new(stream), service).with_upgrades();
        tokio::pin!(connection);
        let done = tokio::select! {
            done = &mut connection => done,
            // Nothing is ever sent: it returns when the sender is gone.
            _ = ended.changed() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(problem) = done {
            debug!(%problem, "a client broke off");
        }
    }
}

/// A descriptor kept back, so that a client can still ask when there are no others left.
#[derive(Debug, Default)]
struct Reserve(Option<File>);

impl Reserve {
    /// Gives it up; whether there was one.
    fn release(&mut self) -> bool {
        self.0.take().is_some()
    }

    /// Takes one again, where there is one to be had.
    fn refill(&mut self) {
        if self.0.is_none() {
            self.0 = File::open("/dev/null").ok();
        }
    }
}

/// The body of a request, which must come in time.
#[derive(Debug)]
struct TimedBody {
    body: Incoming,
    late: Pin<Box<Sleep>>,
}

impl TimedBody {
    fn new(body: Incoming) -> Self {
        Self { body, late: Box::pin(sleep(BODY)) }
    }
}

impl Body for TimedBody {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if self.late.as_mut().poll(context).is_ready() {
            let problem =
                io::Error::new(io::ErrorKind::TimedOut, "the body of the request did not come in time");
            return Poll::Ready(Some(Err(problem.into())));
        }
        Pin::new(&mut self.body).poll_frame(context).map_err(Into::into)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use axum::routing::{get, post};
    use futures_util::{StreamExt, stream};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::sync::oneshot;

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(30);

    async fn ask(path: &Path, request: &str) -> String {
        let mut stream = UnixStream::connect(path).await.expect("connected");
        // A refusal may be quicker than this.
        let _ = stream.write_all(request.as_bytes()).await;
        let mut answer = Vec::new();
        // Who is refused is not read from, which the kernel calls a reset connection after what was answered.
        let _ = timeout(DEADLINE, stream.read_to_end(&mut answer)).await.expect("in time");
        String::from_utf8(answer).expect("text")
    }

    const REQUEST: &str = "GET / HTTP/1.1\r\nhost: worker\r\nconnection: close\r\n\r\n";

    /// An answer that says one thing and does not end.
    async fn endless() -> axum::body::Body {
        let begun = stream::once(ready(Ok::<_, Infallible>("begun")));
        axum::body::Body::from_stream(begun.chain(stream::pending()))
    }

    #[tokio::test]
    async fn idle_clients_make_room_and_busy_ones_have_others_refused() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("s");
        let listener = UnixListener::bind(&path).expect("bound");
        let (end, over) = oneshot::channel::<()>();
        let router = Router::new()
            .route("/", get(|| async { "here" }))
            .route("/slow", post(|body: String| async { body }));
        let serving = tokio::spawn(async move {
            serve(&listener, router, Access::Full, 4, async { drop(over.await) }).await;
        });

        let mut idle = Vec::new();
        for _ in 0..50 {
            idle.push(UnixStream::connect(&path).await.expect("connected"));
        }
        assert!(ask(&path, REQUEST).await.ends_with("here"));
        let mut byte = [0];
        assert_eq!(idle[0].read(&mut byte).await.expect("read"), 0, "the first to come has gone");

        let mut busy = Vec::new();
        for _ in 0..4 {
            let mut stream = UnixStream::connect(&path).await.expect("connected");
            let head =
                b"POST /slow HTTP/1.1\r\nhost: worker\r\ncontent-length: 2\r\nconnection: close\r\n\r\na";
            stream.write_all(head).await.expect("sent");
            busy.push(stream);
        }
        let refused = async {
            // The slow ones may not have been read yet.
            while !ask(&path, REQUEST).await.contains("503") {}
        };
        timeout(DEADLINE, refused).await.expect("in time");
        let mut answer = String::new();
        let (finishing, rest) = busy.split_at_mut(1);
        finishing[0].write_all(b"b").await.expect("sent");
        finishing[0].read_to_string(&mut answer).await.expect("text");
        assert!(answer.ends_with("ab"), "{answer}");
        for stream in rest {
            answer.clear();
            timeout(DEADLINE, stream.read_to_string(&mut answer)).await.expect("in time").expect("text");
            assert!(
                answer.contains(" 400 ") || answer.contains(" 408 "),
                "a body that does not come: {answer}"
            );
        }
        drop(end);
        timeout(DEADLINE, serving).await.expect("ends").expect("whole");
    }

    #[tokio::test]
    async fn a_stream_stays_while_others_are_idle() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("s");
        let listener = UnixListener::bind(&path).expect("bound");
        let (end, over) = oneshot::channel::<()>();
        let router = Router::new().route("/", get(|| async { "here" })).route("/stream", get(endless));
        let serving = tokio::spawn(async move {
            serve(&listener, router, Access::Full, 2, async { drop(over.await) }).await;
        });
        let mut stream = UnixStream::connect(&path).await.expect("connected");
        stream.write_all(b"GET /stream HTTP/1.1\r\nhost: worker\r\n\r\n").await.expect("sent");
        let mut head = Vec::new();
        while !head.ends_with(b"begun\r\n") {
            assert_ne!(stream.read_buf(&mut head).await.expect("read"), 0, "it goes on");
        }
        let mut idle = UnixStream::connect(&path).await.expect("connected");
        assert!(ask(&path, REQUEST).await.ends_with("here"));
        let mut byte = [0];
        assert_eq!(idle.read(&mut byte).await.expect("read"), 0, "the idle one has gone");
        assert!(timeout(Duration::ZERO, stream.read(&mut byte)).await.is_err(), "the stream came before it");
        drop((end, stream));
        timeout(DEADLINE, serving).await.expect("ends").expect("whole");
    }

    #[test]
    fn the_refusal_is_whole() {
        let (head, body) = std::str::from_utf8(BUSY).expect("text").split_once("\r\n\r\n").expect("a body");
        assert!(head.contains(&format!("content-length: {}", body.len())), "{}", body.len());
        let error: crate::ApiError = serde_json::from_str(body).expect("JSON");
        assert_eq!((error.code, error.code.status()), (crate::ErrorCode::TooMany, 503));
    }
}
