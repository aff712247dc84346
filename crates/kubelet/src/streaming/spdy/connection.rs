//! A connection: one task reads frames and hands content to streams, another writes what streams and the reader give it.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::super::{CHUNK_BYTES, CHUNKS_MAX, Gone};
use super::frame::{self, Decoder, Encoder, Headers, Incoming};

/// Streams of one connection at a time. A port-forward has two for each connection that it carries.
const STREAMS_MAX: usize = 1024;

/// Streams that were opened and not yet looked at.
const BACKLOG_MAX: usize = 16;

/// Frames that wait to be written, of up to [`CHUNK_BYTES`].
const WRITES_MAX: usize = 16;

/// How long the client may take to close its side, before the connection is dropped.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

pub(in super::super) struct Connection {
    opened: mpsc::Receiver<Stream>,
    writes: mpsc::Sender<Write>,
    gone: CancellationToken,
    writer: JoinHandle<()>,
    reader: JoinHandle<()>,
    shared: Arc<Shared>,
}

/// A stream that the client has opened; it is not accepted until it is [accepted](Stream::accept).
pub(in super::super) struct Stream {
    id: u32,
    headers: Headers,
    pub(in super::super) input: mpsc::Receiver<Bytes>,
    pub(in super::super) writer: StreamWriter,
    /// Cancelled when the client resets the stream or the connection is lost.
    pub(in super::super) reset: CancellationToken,
}

/// The direction of a stream to the client.
pub(in super::super) struct StreamWriter {
    id: u32,
    writes: mpsc::Sender<Write>,
    shared: Arc<Shared>,
    finished: bool,
}

enum Write {
    Reply { stream: u32 },
    Data { stream: u32, bytes: Bytes, fin: bool },
    Frame(Bytes),
    Close { last_stream: u32 },
}

#[derive(Default)]
struct Shared {
    streams: Mutex<HashMap<u32, Known>>,
}

/// What the reader knows of a stream.
struct Known {
    /// `None` once the client has ended its direction.
    input: Option<mpsc::Sender<Bytes>>,
    /// We have ended ours.
    finished: bool,
    reset: CancellationToken,
}

impl Connection {
    pub(in super::super) fn start<T>(connection: T) -> Connection
    where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (read_half, write_half) = tokio::io::split(connection);
        let (open, opened) = mpsc::channel(BACKLOG_MAX);
        let (writes, queue) = mpsc::channel(WRITES_MAX);
        let gone = CancellationToken::new();
        let shared = Arc::new(Shared::default());
        let writer = tokio::spawn({
            let gone = gone.clone();
            async move {
                if let Err(error) = write(write_half, queue).await {
                    tracing::debug!(%error, "write to a SPDY client");
                    gone.cancel();
                }
            }
        });
        let reader = tokio::spawn({
            let (gone, shared, writes) = (gone.clone(), Arc::clone(&shared), writes.clone());
            async move {
                let _gone = gone.drop_guard();
                if let Err(error) = read(read_half, open, &writes, &shared).await {
                    tracing::debug!(%error, "read from a SPDY client");
                }
                for known in shared.streams.lock().values_mut() {
                    known.input = None;
                    known.reset.cancel();
                }
            }
        });
        Connection { opened, writes, gone, writer, reader, shared }
    }

    /// The next stream that the client opens; `None` when the connection has ended.
    pub(in super::super) async fn accept(&mut self) -> Option<Stream> {
        self.opened.recv().await
    }

    /// Cancelled when the connection is lost.
    pub(in super::super) fn gone(&self) -> &CancellationToken {
        &self.gone
    }

    /// Says good-bye after everything that was sent, and waits a while for the client to close its side.
    pub(in super::super) async fn close(mut self) {
        let last_stream = self.shared.streams.lock().keys().max().copied().unwrap_or(0);
        let goodbye = async {
            if self.writes.send(Write::Close { last_stream }).await.is_ok() {
                let _ = (&mut self.writer).await;
                let _ = (&mut self.reader).await;
            }
        };
        if tokio::time::timeout(CLOSE_TIMEOUT, goodbye).await.is_err() {
            tracing::debug!("a SPDY client did not close the connection; it is dropped");
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.writer.abort();
        self.reader.abort();
    }
}

impl Stream {
    pub(in super::super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub(in super::super) async fn accept(&self) -> Result<(), Gone> {
        self.writer.writes.send(Write::Reply { stream: self.id }).await.map_err(|_| Gone)
    }

    pub(in super::super) async fn refuse(self) -> Result<(), Gone> {
        self.writer.reset().await
    }
}

impl StreamWriter {
    pub(in super::super) async fn send(&mut self, mut bytes: Bytes) -> Result<(), Gone> {
        while !bytes.is_empty() {
            let part = bytes.split_to(bytes.len().min(CHUNK_BYTES));
            self.writes.send(Write::Data { stream: self.id, bytes: part, fin: false }).await.map_err(|_| Gone)?;
        }
        Ok(())
    }

    /// Ends this direction. Idempotent.
    pub(in super::super) async fn finish(&mut self) -> Result<(), Gone> {
        if std::mem::replace(&mut self.finished, true) {
            return Ok(());
        }
        self.shared.finish(self.id);
        self.writes.send(Write::Data { stream: self.id, bytes: Bytes::new(), fin: true }).await.map_err(|_| Gone)
    }

    /// Ends both directions at once, as a failure.
    pub(in super::super) async fn reset(&self) -> Result<(), Gone> {
        self.shared.streams.lock().remove(&self.id);
        self.writes.send(Write::Frame(frame::reset(self.id, frame::STATUS_REFUSED))).await.map_err(|_| Gone)
    }
}

impl Shared {
    fn finish(&self, id: u32) {
        let mut streams = self.streams.lock();
        if let Some(known) = streams.get_mut(&id) {
            known.finished = true;
            if known.input.is_none() {
                streams.remove(&id);
            }
        }
    }

    /// The client has ended its direction.
    fn end_input(&self, id: u32) {
        let mut streams = self.streams.lock();
        if let Some(known) = streams.get_mut(&id) {
            known.input = None;
            if known.finished {
                streams.remove(&id);
            }
        }
    }
}

async fn read(
    reader: impl AsyncRead + Unpin,
    open: mpsc::Sender<Stream>,
    writes: &mpsc::Sender<Write>,
    shared: &Arc<Shared>,
) -> io::Result<()> {
    let mut reader = tokio::io::BufReader::with_capacity(CHUNK_BYTES, reader);
    let mut decoder = Decoder::new();
    let mut last_stream = 0;
    while let Some(incoming) = decoder.next(&mut reader).await? {
        match incoming {
            Incoming::Open { stream, headers, fin } => {
                // Clients number their streams upwards, with odd numbers (draft 3.1, section 2.3.2).
                if stream % 2 == 0 || stream <= last_stream {
                    let reset = frame::reset(stream, frame::STATUS_PROTOCOL_ERROR);
                    writes.send(Write::Frame(reset)).await.map_err(|_| io::ErrorKind::BrokenPipe)?;
                    continue;
                }
                last_stream = stream;
                let (sender, input) = mpsc::channel(CHUNKS_MAX);
                let reset = CancellationToken::new();
                let full = {
                    let mut streams = shared.streams.lock();
                    let full = streams.len() >= STREAMS_MAX;
                    if !full {
                        streams.insert(stream, Known { input: (!fin).then_some(sender), finished: false, reset: reset.clone() });
                    }
                    full
                };
                if full {
                    let reset = frame::reset(stream, frame::STATUS_REFUSED);
                    writes.send(Write::Frame(reset)).await.map_err(|_| io::ErrorKind::BrokenPipe)?;
                    continue;
                }
                let writer = StreamWriter { id: stream, writes: writes.clone(), shared: Arc::clone(shared), finished: false };
                if open.send(Stream { id: stream, headers, input, writer, reset }).await.is_err() {
                    // Nobody takes streams any more; those that are open go on.
                    shared.streams.lock().remove(&stream);
                    let reset = frame::reset(stream, frame::STATUS_REFUSED);
                    writes.send(Write::Frame(reset)).await.map_err(|_| io::ErrorKind::BrokenPipe)?;
                }
            }
            Incoming::Data { stream, length, fin } => {
                let input = shared.streams.lock().get(&stream).and_then(|known| known.input.clone());
                data(&mut reader, length, input).await?;
                if fin {
                    shared.end_input(stream);
                }
            }
            Incoming::Reset { stream } => {
                if let Some(known) = shared.streams.lock().remove(&stream) {
                    known.reset.cancel();
                }
            }
            Incoming::Ping { id } => {
                // A client that does not read its connection gets no answer: waiting here could hold both sides up.
                if id % 2 == 1 && writes.try_send(Write::Frame(frame::ping(id))).is_err() {
                    tracing::debug!("a ping of a SPDY client is left unanswered, it does not read");
                }
            }
            Incoming::GoAway | Incoming::Reply { .. } | Incoming::Other => {}
        }
    }
    Ok(())
}

/// Passes the content of a data frame on, or over where nobody wants it.
async fn data(reader: &mut (impl AsyncRead + Unpin), length: u32, mut input: Option<mpsc::Sender<Bytes>>) -> io::Result<()> {
    let mut content = reader.take(length.into());
    let mut read = 0u64;
    while read < u64::from(length) {
        let mut chunk = BytesMut::with_capacity(CHUNK_BYTES.min(content.limit() as usize));
        let count = content.read_buf(&mut chunk).await?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        read += count as u64;
        if let Some(sender) = &input
            && sender.send(chunk.freeze()).await.is_err()
        {
            input = None;
        }
    }
    Ok(())
}

async fn write(writer: impl AsyncWrite + Unpin, mut queue: mpsc::Receiver<Write>) -> io::Result<()> {
    let mut writer = tokio::io::BufWriter::with_capacity(CHUNK_BYTES, writer);
    let mut encoder = Encoder::new()?;
    while let Some(write) = queue.recv().await {
        match write {
            Write::Reply { stream } => writer.write_all(&encoder.reply(stream)?).await?,
            Write::Frame(frame) => writer.write_all(&frame).await?,
            Write::Data { stream, bytes, fin } => {
                writer.write_all(&frame::data_head(stream, bytes.len(), fin)).await?;
                writer.write_all(&bytes).await?;
            }
            Write::Close { last_stream } => {
                writer.write_all(&frame::go_away(last_stream)).await?;
                return writer.shutdown().await;
            }
        }
        if queue.is_empty() {
            writer.flush().await?;
        }
    }
    writer.shutdown().await
}
