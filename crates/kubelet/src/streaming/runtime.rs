//! The runtime's sessions as this module wants them.

use knarr_runtime::Exit;

use super::{Ended, Reader, Session, Streams, Writer};

/// An exec'd process: the client is told its exit code.
pub(crate) struct Exec(pub(crate) knarr_runtime::Session);

/// An attached container: that it ended is all that the client is told, as upstream.
pub(crate) struct Attach(pub(crate) knarr_runtime::Session);

fn take(session: &mut knarr_runtime::Session) -> Streams {
    Streams {
        stdin: session.stdin.take().map(|stream| stream as Writer),
        stdout: session.stdout.take().map(|stream| stream as Reader),
        stderr: session.stderr.take().map(|stream| stream as Reader),
    }
}

async fn resize(session: &knarr_runtime::Session, columns: u16, rows: u16) {
    if let Err(error) = session.resize(columns, rows).await {
        tracing::debug!(%error, "resize a terminal");
    }
}

impl Session for Exec {
    fn take_streams(&mut self) -> Streams {
        take(&mut self.0)
    }

    async fn resize(&mut self, columns: u16, rows: u16) {
        resize(&self.0, columns, rows).await;
    }

    async fn wait(&mut self) -> Ended {
        match self.0.wait().await {
            Ok(Exit { code, .. }) => Ended::Code(code),
            Err(error) => Ended::Failed(error.to_string()),
        }
    }
}

impl Session for Attach {
    fn take_streams(&mut self) -> Streams {
        take(&mut self.0)
    }

    async fn resize(&mut self, columns: u16, rows: u16) {
        resize(&self.0, columns, rows).await;
    }

    async fn wait(&mut self) -> Ended {
        match self.0.wait().await {
            Ok(_) => Ended::Done,
            Err(error) => Ended::Failed(error.to_string()),
        }
    }
}
