//! `knarr exec`.

use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api,
    api::{AttachParams, AttachedProcess, TerminalSize},
};
use tokio::{
    io::{copy, stderr, stdin, stdout},
    signal::unix::{SignalKind, signal},
};

use super::{connect, refused};
use crate::{cli::Exec, report::Failure};

pub(crate) async fn run(exec: &Exec) -> Result<(), Failure> {
    let pods: Api<Pod> = Api::namespaced(connect(&exec.place).await?, &exec.namespace);
    let params = AttachParams {
        container: exec.container.clone(),
        stdin: exec.stdin,
        stdout: true,
        stderr: !exec.tty,
        tty: exec.tty,
        ..AttachParams::default()
    };
    let process = pods.exec(&exec.pod, &exec.command, &params).await.map_err(refused)?;
    let _raw = if exec.tty && exec.stdin { Some(RawTerminal::enter()?) } else { None };
    let code = follow(process, exec.tty).await?;
    if code == 0 { Ok(()) } else { Err(Failure::Exit(code)) }
}

/// Moves bytes both ways until the command ends; returns its exit code.
async fn follow(mut process: AttachedProcess, tty: bool) -> Result<u8, Failure> {
    if let Some(mut input) = process.stdin() {
        tokio::spawn(async move { copy(&mut stdin(), &mut input).await });
    }
    if let Some(mut sizes) = process.terminal_size().filter(|_| tty) {
        tokio::spawn(async move {
            use futures::SinkExt as _;
            let Ok(mut changed) = signal(SignalKind::window_change()) else { return };
            loop {
                let Ok(size) = rustix::termios::tcgetwinsize(std::io::stdout()) else { return };
                if sizes.send(TerminalSize { width: size.ws_col, height: size.ws_row }).await.is_err() || changed.recv().await.is_none() {
                    return;
                }
            }
        });
    }
    let output = process.stdout();
    let errors = process.stderr();
    let status = process.take_status();
    let pump_output = async {
        if let Some(mut output) = output {
            copy(&mut output, &mut stdout()).await?;
        }
        Ok::<_, std::io::Error>(())
    };
    let pump_errors = async {
        if let Some(mut errors) = errors {
            copy(&mut errors, &mut stderr()).await?;
        }
        Ok::<_, std::io::Error>(())
    };
    tokio::try_join!(pump_output, pump_errors)?;
    let status = match status {
        Some(status) => status.await,
        None => None,
    };
    let Some(status) = status.filter(|status| status.status.as_deref() != Some("Success")) else { return Ok(0) };
    let causes = status.details.and_then(|details| details.causes).unwrap_or_default();
    let code =
        causes.iter().find(|cause| cause.reason.as_deref() == Some("ExitCode")).and_then(|cause| cause.message.as_ref()?.parse().ok());
    match code {
        Some(code) => Ok(code),
        None => Err(Failure::Api(format!("the command could not be run: {}", status.message.unwrap_or_default()))),
    }
}

/// The terminal in raw mode; as it was again when dropped.
struct RawTerminal(rustix::termios::Termios);

impl RawTerminal {
    fn enter() -> Result<Self, Failure> {
        let before = rustix::termios::tcgetattr(std::io::stdin())
            .map_err(|error| Failure::Usage(format!("--tty needs a terminal on standard input: {error}")))?;
        let mut raw = before.clone();
        raw.make_raw();
        rustix::termios::tcsetattr(std::io::stdin(), rustix::termios::OptionalActions::Now, &raw)?;
        Ok(Self(before))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        let _ = rustix::termios::tcsetattr(std::io::stdin(), rustix::termios::OptionalActions::Now, &self.0);
    }
}
