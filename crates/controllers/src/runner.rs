//! Workers that take keys from queues and call controllers.

use std::{fmt::Display, hash::Hash, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures::FutureExt;
use knarr_client::WorkQueue;
use tokio::task::JoinSet;

use crate::RunError;

/// Keys of one controller that are worked on at a time. The work is requests to the API, so it is bounded by the server's own limits.
const WORKERS: usize = 4;

/// What one look at a key did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Activation {
    /// What was written, for people: `create pod web-1`.
    pub(crate) changed: Vec<String>,
    /// When time alone will make a difference.
    pub(crate) wake: Option<Duration>,
}

impl Activation {
    pub(crate) fn changed(&mut self, what: impl Into<String>) {
        self.changed.push(what.into());
    }
}

/// A step that failed. The key comes again after a pause.
#[derive(Debug, thiserror::Error)]
#[error("{step}")]
pub(crate) struct StepError {
    step: String,
    #[source]
    source: kube::Error,
}

impl StepError {
    /// Whether the object changed or went meanwhile: the watch brings the newer state, and a word in the log would only disturb.
    fn is_stale(&self) -> bool {
        matches!(&self.source, kube::Error::Api(status) if matches!(status.code, 404 | 409))
    }

    /// What the server said.
    pub(crate) fn brief(&self) -> String {
        brief(&self.source)
    }

    /// Whether the namespace is being deleted: what does not exist in it yet never will.
    fn is_too_late(&self) -> bool {
        let kube::Error::Api(status) = &self.source else { return false };
        let causes = status.details.as_ref().map(|details| details.causes.as_slice()).unwrap_or_default();
        causes.iter().any(|cause| cause.reason == "NamespaceTerminating")
    }
}

/// What the server said, without the structure that it said it in.
pub(crate) fn brief(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

/// Names the step that a request was part of.
pub(crate) trait Step<T> {
    fn step(self, step: impl FnOnce() -> String) -> Result<T, StepError>;
}

impl<T> Step<T> for Result<T, kube::Error> {
    fn step(self, step: impl FnOnce() -> String) -> Result<T, StepError> {
        self.map_err(|source| StepError { step: step(), source })
    }
}

/// One controller: brings what belongs to a key to what it should be.
pub(crate) trait Controller: Send + Sync + 'static {
    type Key: Clone + Display + Eq + Hash + Send + Sync + 'static;

    const NAME: &'static str;

    fn reconcile(&self, key: &Self::Key) -> impl Future<Output = Result<Activation, StepError>> + Send;
}

/// All workers of all controllers.
#[derive(Default)]
pub(crate) struct Runner {
    workers: JoinSet<()>,
}

impl Runner {
    /// Starts the workers of a controller once `synced` says that its informers hold a first list.
    pub(crate) fn start<C: Controller>(
        &mut self,
        controller: C,
        queue: Arc<WorkQueue<C::Key>>,
        synced: impl Future<Output = ()> + Send + 'static,
    ) {
        let controller = Arc::new(controller);
        self.workers.spawn(async move {
            synced.await;
            let mut workers = JoinSet::new();
            for _ in 0..WORKERS {
                workers.spawn(work(controller.clone(), queue.clone()));
            }
            workers.join_all().await;
        });
    }

    /// Runs what controllers share and nobody else starts.
    pub(crate) fn also(&mut self, shared: impl Future<Output = ()> + Send + 'static) {
        self.workers.spawn(shared);
    }

    pub(crate) async fn run(mut self) -> Result<(), RunError> {
        while let Some(ended) = self.workers.join_next().await {
            ended.map_err(RunError::Panicked)?;
        }
        Ok(())
    }
}

async fn work<C: Controller>(controller: Arc<C>, queue: Arc<WorkQueue<C::Key>>) {
    loop {
        let key = queue.next().await;
        // An object that is not thought of must not end what keeps all others: it is in the store, and would do so again after each start.
        let reconciled = match AssertUnwindSafe(controller.reconcile(&key)).catch_unwind().await {
            Ok(reconciled) => reconciled,
            Err(panic) => {
                let pause = queue.failed(&key);
                let told = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
                let controller = C::NAME;
                tracing::error!(controller, %key, ?pause, told, "panicked, which is a fault of Knarr's: please report it; again after a pause");
                continue;
            }
        };
        match reconciled {
            Ok(activation) => {
                if !activation.changed.is_empty() {
                    tracing::debug!(controller = C::NAME, %key, changed = ?activation.changed, "reconciled");
                }
                queue.done(&key);
                if let Some(wake) = activation.wake {
                    queue.add_after(key, wake);
                }
            }
            Err(error) if error.is_too_late() => queue.done(&key),
            Err(error) => {
                let pause = queue.failed(&key);
                if error.is_stale() {
                    tracing::debug!(controller = C::NAME, %key, ?pause, error = brief(&error.source), step = error.step, "stale; again");
                } else {
                    tracing::warn!(controller = C::NAME, %key, ?pause, error = brief(&error.source), step = error.step, "again after a pause");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use knarr_client::Backoff;
    use tokio::sync::mpsc;

    use super::*;

    struct Touchy(mpsc::UnboundedSender<u32>);

    impl Controller for Touchy {
        type Key = u32;

        const NAME: &'static str = "touchy";

        async fn reconcile(&self, key: &u32) -> Result<Activation, StepError> {
            self.0.send(*key).unwrap();
            assert!(key.is_multiple_of(2), "it panics at odd numbers");
            Ok(Activation::default())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_at_which_a_controller_panics_comes_again_and_holds_up_no_other() {
        let (sender, mut seen) = mpsc::unbounded_channel();
        let queue = Arc::new(WorkQueue::new(Backoff::default()));
        let mut runner = Runner::default();
        runner.start(Touchy(sender), queue.clone(), async {});
        for key in 1..=9 {
            queue.add(key);
        }
        let mut times = [0; 10];
        while times[1] < 3 || times[1..].contains(&0) {
            times[seen.recv().await.unwrap() as usize] += 1;
        }
        assert_eq!([times[2], times[4], times[6], times[8]], [1; 4]);
        assert_eq!(runner.workers.len(), 1, "the workers go on");
    }
}
