//! `/containerLogs/<namespace>/<pod>/<container>`: the log of a container, from its file in the CRI format.
//!
//! The file is opened by descriptor beneath the log root, without following links, and must be a regular file: a pod that could
//! plant a link there would else read the node's files.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::{Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use jiff::{SignedDuration, Timestamp};
use knarr_runtime::ContainerState;
use rustix::fs::{Mode, OFlags, ResolveFlags, open, openat2};
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio::sync::mpsc;

use super::{Api, Body, decode, text_response};

/// Bytes read from the file at once.
const READ_BYTES: usize = 64 * 1024;
/// Pieces of output that wait for the client; beyond it the reader waits.
const PIECES_MAX: usize = 8;
/// Longest line that is looked at as a whole; the keeper writes none longer than 16 KiB and its head.
const LINE_BYTES_MAX: usize = 64 * 1024;

#[derive(Clone, Debug, Default, PartialEq)]
struct Options {
    follow: bool,
    previous: bool,
    timestamps: bool,
    tail_lines: Option<u64>,
    limit_bytes: Option<u64>,
    since: Option<Timestamp>,
    /// `Stdout` or `Stderr`; `None`: both.
    stream: Option<&'static str>,
}

impl Options {
    fn parse(query: &str, now: Timestamp) -> Result<Options, String> {
        let mut out = Options::default();
        for pair in query.split('&').filter(|it| !it.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = decode(value);
            let truth = matches!(value.as_str(), "true" | "1" | "");
            let number = || value.parse::<u64>().map_err(|_| format!("{name}: not a number: {value}"));
            match name {
                "follow" => out.follow = truth,
                "previous" => out.previous = truth,
                "timestamps" => out.timestamps = truth,
                "tailLines" => out.tail_lines = Some(number()?),
                "limitBytes" => out.limit_bytes = Some(number()?),
                "sinceSeconds" => {
                    let ago = SignedDuration::from_secs(i64::try_from(number()?).unwrap_or(i64::MAX));
                    out.since = Some(now.checked_sub(ago).unwrap_or(Timestamp::UNIX_EPOCH));
                }
                "sinceTime" => out.since = Some(value.parse().map_err(|_| format!("sinceTime: not a time: {value}"))?),
                "stream" => {
                    out.stream = match value.as_str() {
                        "Stdout" => Some("stdout"),
                        "Stderr" => Some("stderr"),
                        _ => None,
                    }
                }
                _ => {}
            }
        }
        Ok(out)
    }
}

pub(super) async fn serve(api: &Arc<Api>, namespace: &str, pod: &str, container: &str, query: Option<&str>) -> Response<Body> {
    let options = match Options::parse(query.unwrap_or_default(), Timestamp::now()) {
        Ok(options) => options,
        Err(text) => return text_response(StatusCode::BAD_REQUEST, text),
    };
    let Some(worker) = api.pods.find(namespace, pod) else {
        return text_response(StatusCode::NOT_FOUND, format!("pod \"{pod}\" not found\n"));
    };
    let run = match worker.logged(container, options.previous) {
        Ok(id) => api.node.runtime.status(&id).map_err(|_| format!("container \"{container}\" in pod \"{pod}\" has no log any more")),
        Err(text) => Err(text),
    };
    let run = match run {
        Ok(run) => run,
        Err(text) => return text_response(StatusCode::BAD_REQUEST, text),
    };
    let root = api.node.config.data_dir.join("logs/pods");
    let Some(path) = run.log_path.as_deref().and_then(|it| it.strip_prefix(&root).ok()).map(Path::to_owned) else {
        return text_response(StatusCode::INTERNAL_SERVER_ERROR, "the container has no log file".into());
    };
    let file = match open_beneath(&root, &path) {
        Ok(file) => file,
        Err(error) => return text_response(StatusCode::INTERNAL_SERVER_ERROR, format!("open the log: {error}")),
    };
    let (send, receive) = mpsc::channel(PIECES_MAX);
    let reader = Reader { api: api.clone(), root, path, container: run.id, options, out: send };
    tokio::spawn(async move {
        if let Err(error) = reader.run(file).await {
            tracing::debug!(%error, "read a container's log");
        }
    });
    let pieces = futures::stream::unfold(receive, |mut receive| async move { receive.recv().await.map(|piece| (piece, receive)) });
    let frames = futures::StreamExt::map(pieces, |piece: Bytes| Ok::<_, std::io::Error>(Frame::data(piece)));
    let mut response = Response::new(BodyExt::boxed(StreamBody::new(frames)));
    response.headers_mut().insert("content-type", http::HeaderValue::from_static("text/plain"));
    response
}

fn open_beneath(root: &Path, path: &Path) -> std::io::Result<tokio::fs::File> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let root = open(root, flags | OFlags::DIRECTORY, Mode::empty())?;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    // Without NONBLOCK, opening a FIFO would wait for its writer.
    let file: OwnedFd = openat2(&root, path, flags | OFlags::NONBLOCK, Mode::empty(), resolve)?;
    let file = std::fs::File::from(file);
    if !file.metadata()?.is_file() {
        return Err(std::io::Error::other("not a regular file"));
    }
    Ok(tokio::fs::File::from_std(file))
}

struct Reader {
    api: Arc<Api>,
    root: PathBuf,
    /// Below the root.
    path: PathBuf,
    container: String,
    options: Options,
    out: mpsc::Sender<Bytes>,
}

impl Reader {
    /// Reads to the end, and on while the container runs if that is wanted. Ends when the client goes.
    async fn run(self, mut file: tokio::fs::File) -> std::io::Result<()> {
        let mut events = self.api.node.runtime.events();
        let changes = match self.options.follow {
            true => {
                let dir = self.root.join(&self.path);
                let dir = dir.parent().unwrap_or(&self.root);
                Some(self.api.changes.follow(dir).map_err(std::io::Error::other)?)
            }
            false => None,
        };
        let mut text = Text::new(&self.options);
        if let Some(lines) = self.options.tail_lines {
            seek_tail(&mut file, lines).await?;
        }
        let mut pending = BytesMut::new();
        let mut after = None;
        loop {
            // Asked before reading, so that nothing written before the end is missed.
            let running = self.is_running();
            loop {
                let mut chunk = BytesMut::with_capacity(READ_BYTES);
                if file.read_buf(&mut chunk).await? == 0 {
                    break;
                }
                pending.extend_from_slice(&chunk);
                let (piece, done) = text.take(&mut pending);
                if !piece.is_empty() && self.out.send(piece).await.is_err() {
                    return Ok(());
                }
                if done {
                    return Ok(());
                }
            }
            let Some(changes) = &changes else {
                return Ok(());
            };
            // What was written to the old file between the last read and the rotation is read first.
            if let Some(next) = after.take() {
                file = next;
                continue;
            }
            after = self.rotated(&file).await?;
            if after.is_some() {
                continue;
            }
            if !running {
                return Ok(());
            }
            tokio::select! {
                () = changes.notified() => {}
                _ = events.next() => {}
                () = self.out.closed() => return Ok(()),
            }
        }
    }

    fn is_running(&self) -> bool {
        self.api.node.runtime.status(&self.container).is_ok_and(|it| !matches!(it.state, ContainerState::Exited(_)))
    }

    /// The file that is at the path now, if it is another one than that which is being read.
    async fn rotated(&self, file: &tokio::fs::File) -> std::io::Result<Option<tokio::fs::File>> {
        use std::os::unix::fs::MetadataExt as _;
        let next = match open_beneath(&self.root, &self.path) {
            Ok(next) => next,
            // Between the two renames of a rotation there is none.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let (a, b) = (file.metadata().await?, next.metadata().await?);
        Ok((a.ino() != b.ino()).then_some(next))
    }
}

/// Places the file where its last `lines` lines begin. A line of the container may be several of the file (`P`); they count as one.
async fn seek_tail(file: &mut tokio::fs::File, lines: u64) -> std::io::Result<()> {
    let mut end = file.metadata().await?.len();
    let mut tail: Vec<u8> = Vec::new();
    if lines == 0 {
        file.seek(std::io::SeekFrom::End(0)).await?;
        return Ok(());
    }
    while end > 0 {
        let start = end.saturating_sub(READ_BYTES as u64);
        file.seek(std::io::SeekFrom::Start(start)).await?;
        let mut chunk = vec![0; usize::try_from(end - start).unwrap_or(READ_BYTES)];
        file.read_exact(&mut chunk).await?;
        chunk.extend_from_slice(&tail);
        tail = chunk;
        // Walk over the beginnings of whole lines in what was read, from the last to the first.
        let mut found = 0;
        let mut line_end = tail.len();
        for at in (0..tail.len()).rev() {
            let begins = at == 0 && start == 0 || at > 0 && tail[at - 1] == b'\n';
            if !begins {
                continue;
            }
            let line = &tail[at..line_end];
            line_end = at;
            if !line.is_empty() && is_full(line) {
                found += 1;
            }
            if found > lines {
                let next = at + line.len();
                file.seek(std::io::SeekFrom::Start(start + next as u64)).await?;
                return Ok(());
            }
        }
        end = start;
    }
    file.seek(std::io::SeekFrom::Start(0)).await?;
    Ok(())
}

fn is_full(line: &[u8]) -> bool {
    line.splitn(4, |it| *it == b' ').nth(2).is_some_and(|tag| tag.starts_with(b"F"))
}

/// Turns lines of the file into what the client asked for.
struct Text {
    timestamps: bool,
    since: Option<Timestamp>,
    stream: Option<&'static str>,
    left: Option<u64>,
    /// The next piece begins a line of the container.
    fresh: bool,
}

impl Text {
    fn new(options: &Options) -> Text {
        Text { timestamps: options.timestamps, since: options.since, stream: options.stream, left: options.limit_bytes, fresh: true }
    }

    /// Takes all whole lines from `pending`. The second value is true once the limit is reached.
    fn take(&mut self, pending: &mut BytesMut) -> (Bytes, bool) {
        let mut out = Vec::new();
        while let Some(end) = pending.iter().position(|it| *it == b'\n') {
            let line = pending.split_to(end + 1);
            self.line(&line, &mut out);
        }
        if pending.len() > LINE_BYTES_MAX {
            // Not a line of a keeper's; it is passed over.
            pending.clear();
        }
        if let Some(left) = &mut self.left {
            let room = usize::try_from(*left).unwrap_or(usize::MAX);
            out.truncate(room);
            *left -= out.len() as u64;
            if *left == 0 {
                return (out.into(), true);
            }
        }
        (out.into(), false)
    }

    fn line(&mut self, line: &[u8], out: &mut Vec<u8>) {
        let mut parts = line.splitn(4, |it| *it == b' ');
        let (Some(at), Some(stream), Some(tag), Some(text)) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
            return;
        };
        if self.stream.is_some_and(|wanted| wanted.as_bytes() != stream) {
            return;
        }
        if let Some(since) = self.since {
            let at = std::str::from_utf8(at).ok().and_then(|it| it.parse::<Timestamp>().ok());
            if at.is_some_and(|at| at < since) {
                return;
            }
        }
        if self.timestamps && self.fresh {
            out.extend_from_slice(at);
            out.push(b' ');
        }
        if tag.starts_with(b"P") {
            out.extend_from_slice(text.strip_suffix(b"\n").unwrap_or(text));
            self.fresh = false;
        } else {
            out.extend_from_slice(text);
            self.fresh = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "2026-01-01T00:00:00.5Z stdout F one\n2026-01-01T00:00:01Z stderr F two\n\
                       2026-01-01T00:00:02Z stdout P th\n2026-01-01T00:00:02Z stdout F ree\n2026-01-01T00:00:03Z stdout F four\n";

    fn check(query: &str, expected: &str) {
        let options = Options::parse(query, "2026-01-01T00:00:03Z".parse().unwrap()).unwrap();
        let (text, _) = Text::new(&options).take(&mut BytesMut::from(LOG));
        assert_eq!(String::from_utf8_lossy(&text), expected, "{query}");
    }

    #[test]
    fn lines_are_shown_as_the_container_wrote_them() {
        check("", "one\ntwo\nthree\nfour\n");
        check("stream=Stderr", "two\n");
        check("limitBytes=5", "one\nt");
        check("sinceSeconds=1", "three\nfour\n");
        check("sinceTime=2026-01-01T00%3A00%3A03Z", "four\n");
        check("timestamps=true&sinceSeconds=1", "2026-01-01T00:00:02Z three\n2026-01-01T00:00:03Z four\n");
    }

    #[tokio::test]
    async fn the_tail_counts_lines_of_the_container() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("0.log"), LOG).unwrap();
        for (lines, expected) in [(0, ""), (1, "four\n"), (2, "three\nfour\n"), (3, "two\nthree\nfour\n"), (9, "one\ntwo\nthree\nfour\n")] {
            let mut file = open_beneath(dir.path(), Path::new("0.log")).unwrap();
            seek_tail(&mut file, lines).await.unwrap();
            let mut rest = BytesMut::new();
            while file.read_buf(&mut rest).await.unwrap() > 0 {}
            let (text, _) = Text::new(&Options::default()).take(&mut rest);
            assert_eq!(String::from_utf8_lossy(&text), expected, "{lines}");
        }
    }

    #[test]
    fn links_and_odd_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("link")).unwrap();
        std::fs::create_dir(dir.path().join("dir")).unwrap();
        for path in ["link", "dir", "../x", "/etc/passwd"] {
            assert!(open_beneath(dir.path(), Path::new(path)).is_err(), "{path}");
        }
    }
}
