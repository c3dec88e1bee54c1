//! Where the synchronous calls of the library meet its asynchronous inside: a runtime of its own.
//!
//! The manager's work always runs on this runtime, whoever calls. A synchronous call waits for it with its own
//! thread; an asynchronous call awaits it from whatever runtime its caller is on.

use std::future::Future;
use std::io;

use tokio::runtime::{Builder, Handle, Runtime};

use super::error::VmManagerError;

/// The manager's runtime. Dropping it does not wait for what still runs on it.
#[derive(Debug)]
pub(crate) struct Executor {
    /// Taken only when dropped.
    runtime: Option<Runtime>,
    handle: Handle,
}

impl Executor {
    /// A runtime with two worker threads: what runs here waits for machines, kernel and disks, and computes little.
    pub(crate) fn new() -> io::Result<Self> {
        let runtime =
            Builder::new_multi_thread().worker_threads(2).thread_name("vm-manager").enable_all().build()?;
        Ok(Self { handle: runtime.handle().clone(), runtime: Some(runtime) })
    }

    /// The runtime's handle, for tasks that outlive a call.
    pub(crate) fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Refuses a synchronous call on a thread that belongs to a runtime: it would stop every task there.
    ///
    /// # Errors
    /// `call` was made on such a thread; the error names `twin`, which works there.
    pub(crate) fn refuse_on_runtime(call: &'static str, twin: &'static str) -> Result<(), VmManagerError> {
        match Handle::try_current() {
            Ok(_) => Err(VmManagerError::OnRuntimeThread { call, twin }),
            Err(_) => Ok(()),
        }
    }

    /// Runs `work` here and blocks the calling thread until it is done.
    pub(crate) fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
        self.handle.block_on(work)
    }

    /// Runs `work` here to its end, even when the caller stops waiting, and gives its result to whichever runtime
    /// awaits it.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, VmManagerError> {
        self.handle.spawn(work).await.map_err(VmManagerError::TaskLost)
    }
}

impl Drop for Executor {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // A plain drop would wait, which is forbidden on a runtime's thread, where a manager may be dropped.
            runtime.shutdown_background();
        }
    }
}
