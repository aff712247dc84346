//! Channels over a WebSocket (apimachinery, `wsstream`; KEP-4006 for v5): the first byte of a message, or in the base64 forms its
//! first digit, is the channel.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::{Bytes, BytesMut};
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt as _, StreamExt as _};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig, frame::coding::CloseCode};
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_util::sync::CancellationToken;

use super::remote::{Client, Output};
use super::{CHUNK_BYTES, CHUNKS_MAX, Gone, Wanted};

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
/// v5: the message's second byte is a channel that the client has closed.
const CLOSE: u8 = 255;

/// Bytes of one message from a client. kubectl sends up to 32 KiB, the JavaScript client whatever it was given at once.
const MESSAGE_BYTES_MAX: usize = 4 << 20;

/// How long the client may take to answer a close, before the connection is dropped.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// How a protocol packs channels into messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Packing {
    base64: bool,
    close: bool,
    status_is_json: bool,
}

impl Packing {
    fn of(protocol: &str) -> Packing {
        Packing { base64: protocol.contains("base64"), close: protocol.starts_with("v5."), status_is_json: protocol.starts_with('v') }
    }

    fn pack(self, channel: u8, bytes: &[u8]) -> Message {
        if self.base64 {
            let mut text = char::from(b'0' + channel).to_string();
            BASE64.encode_string(bytes, &mut text);
            return Message::text(text);
        }
        let mut message = BytesMut::with_capacity(1 + bytes.len());
        message.extend_from_slice(&[channel]);
        message.extend_from_slice(bytes);
        Message::binary(message.freeze())
    }

    /// Channel and content; `None` for a message that means nothing.
    fn unpack(self, message: Message) -> Option<(u8, Bytes)> {
        let mut bytes = match message {
            Message::Text(text) => Bytes::from(text),
            Message::Binary(bytes) => bytes,
            _ => return None,
        };
        if bytes.is_empty() {
            return None;
        }
        let channel = bytes.split_to(1)[0];
        if self.base64 {
            return Some((channel.checked_sub(b'0')?, Bytes::from(BASE64.decode(&bytes).ok()?)));
        }
        Some((channel, bytes))
    }
}

fn config() -> WebSocketConfig {
    let mut config = WebSocketConfig::default();
    config.max_message_size = Some(MESSAGE_BYTES_MAX);
    config.max_frame_size = Some(MESSAGE_BYTES_MAX);
    config.max_write_buffer_size = 2 * MESSAGE_BYTES_MAX;
    config.write_buffer_size = 0;
    config
}

/// A channel to the client.
pub(super) struct Channel {
    number: u8,
    queue: mpsc::Sender<(u8, Bytes)>,
}

impl Channel {
    pub(super) async fn send(&mut self, bytes: Bytes) -> Result<(), Gone> {
        self.queue.send((self.number, bytes)).await.map_err(|_| Gone)
    }
}

/// Ends the connection once everything that was sent is out.
pub(super) struct Closer {
    writer: JoinHandle<()>,
    reader: JoinHandle<()>,
}

impl Closer {
    /// All channels must be dropped. Waits for the client to close its side, for a while.
    pub(super) async fn close(mut self) {
        let both = async {
            let _ = (&mut self.writer).await;
            let _ = (&mut self.reader).await;
        };
        if tokio::time::timeout(CLOSE_TIMEOUT, both).await.is_err() {
            self.writer.abort();
            self.reader.abort();
        }
    }
}

impl Drop for Closer {
    fn drop(&mut self) {
        self.writer.abort();
        self.reader.abort();
    }
}

/// The channels of a remote command.
pub(super) async fn channels<T>(connection: T, protocol: &str, wanted: Wanted) -> (Client, Closer)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let packing = Packing::of(protocol);
    let socket = WebSocketStream::from_raw_socket(connection, Role::Server, Some(config())).await;
    let (sink, stream) = socket.split();
    let (queue, outgoing) = mpsc::channel(CHUNKS_MAX);
    let gone = CancellationToken::new();
    let (stdin, stdin_out) = mpsc::channel(CHUNKS_MAX);
    let (resize, resize_out) = mpsc::channel(CHUNKS_MAX);
    let inputs = vec![(STDIN, wanted.stdin.then_some(stdin)), (RESIZE, wanted.tty.then_some(resize))];
    let writer = tokio::spawn(write(sink, outgoing, packing));
    let reader = tokio::spawn(read(stream, inputs, packing, gone.clone()));
    let channel = |number| Output::WebSocket(Channel { number, queue: queue.clone() });
    let (stdout, stderr) = (wanted.stdout.then(|| channel(STDOUT)), (wanted.stderr && !wanted.tty).then(|| channel(STDERR)));
    // An empty message on the first channel tells the client that the connection stands, as upstream does.
    let hello = [(wanted.stdout, STDOUT), (stderr.is_some(), STDERR), (true, ERROR)]
        .into_iter()
        .find(|(on, _)| *on)
        .map_or(ERROR, |(_, number)| number);
    if queue.send((hello, Bytes::new())).await.is_err() {
        gone.cancel();
    }
    let client = Client {
        stdin: wanted.stdin.then_some(stdin_out),
        stdout,
        stderr,
        error: channel(ERROR),
        resize: wanted.tty.then_some(resize_out),
        gone,
        status_is_json: packing.status_is_json,
    };
    (client, Closer { writer, reader })
}

/// Sends what the channels give until they are all dropped, then closes.
async fn write<T>(mut sink: SplitSink<WebSocketStream<T>, Message>, mut queue: mpsc::Receiver<(u8, Bytes)>, packing: Packing)
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    while let Some((channel, bytes)) = queue.recv().await {
        if let Err(error) = sink.send(packing.pack(channel, &bytes)).await {
            return tracing::debug!(%error, "write to a WebSocket client");
        }
    }
    let close = CloseFrame { code: CloseCode::Normal, reason: "".into() };
    if let Err(error) = sink.send(Message::Close(Some(close))).await {
        tracing::debug!(%error, "close a WebSocket");
    }
}

/// Hands each message to its channel; a full channel holds the connection up. Cancels `gone` at the end of the connection.
async fn read<T>(
    mut stream: SplitStream<WebSocketStream<T>>,
    mut inputs: Vec<(u8, Option<mpsc::Sender<Bytes>>)>,
    packing: Packing,
    gone: CancellationToken,
) where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let _gone = gone.drop_guard();
    while let Some(message) = stream.next().await {
        let message = match message {
            Ok(message) => message,
            Err(Error::ConnectionClosed) => return,
            Err(error) => return tracing::debug!(%error, "read from a WebSocket client"),
        };
        if message.is_close() {
            // The library answers it when the stream is polled again; then the connection ends.
            continue;
        }
        let Some((channel, bytes)) = packing.unpack(message) else { continue };
        if channel == CLOSE && packing.close {
            let closed = bytes.first().copied();
            inputs.iter_mut().filter(|(number, _)| Some(*number) == closed).for_each(|(_, sender)| *sender = None);
            continue;
        }
        if let Some((_, Some(sender))) = inputs.iter().find(|(number, _)| *number == channel) {
            // Nobody reads it any more: the rest of the client's input has no reader.
            let _ = sender.send(bytes).await;
        }
    }
}

/// The channels of the older form of port forwarding: for the n-th port, data on 2n and errors on 2n+1.
pub(super) struct PortChannels {
    pub(super) data_in: mpsc::Receiver<Bytes>,
    pub(super) data: Channel,
    pub(super) error: Channel,
}

pub(super) async fn port_channels<T>(connection: T, protocol: &str, ports: &[u16]) -> (Vec<PortChannels>, CancellationToken, Closer)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let packing = Packing::of(protocol);
    let socket = WebSocketStream::from_raw_socket(connection, Role::Server, Some(config())).await;
    let (sink, stream) = socket.split();
    let (queue, outgoing) = mpsc::channel(CHUNKS_MAX);
    let gone = CancellationToken::new();
    let mut inputs = Vec::new();
    let mut pairs = Vec::new();
    for number in (0u8..).step_by(2).take(ports.len()) {
        let (sender, data_in) = mpsc::channel(CHUNKS_MAX);
        inputs.push((number, Some(sender)));
        let channel = |number| Channel { number, queue: queue.clone() };
        pairs.push(PortChannels { data_in, data: channel(number), error: channel(number + 1) });
    }
    let writer = tokio::spawn(write(sink, outgoing, packing));
    let reader = tokio::spawn(read(stream, inputs, packing, gone.clone()));
    for (pair, port) in pairs.iter().zip(ports) {
        for number in [pair.data.number, pair.error.number] {
            // The first message of each channel is the port, low byte first. A lost client shows in `gone`.
            let _ = queue.send((number, Bytes::copy_from_slice(&port.to_le_bytes()))).await;
        }
    }
    (pairs, gone, Closer { writer, reader })
}

/// The bytes inside the messages of a WebSocket as one stream: SPDY tunnelled through it. Ends with either side.
pub(super) async fn tunnel<T>(connection: T) -> DuplexStream
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let socket = WebSocketStream::from_raw_socket(connection, Role::Server, Some(config())).await;
    let (mut sink, mut stream) = socket.split();
    let (ours, theirs) = tokio::io::duplex(2 * CHUNK_BYTES);
    let (mut from_us, mut to_us) = tokio::io::split(ours);
    tokio::spawn(async move {
        let inward = async {
            while let Some(Ok(message)) = stream.next().await {
                let bytes = match message {
                    Message::Binary(bytes) => bytes,
                    Message::Text(text) => Bytes::from(text),
                    _ => continue,
                };
                if to_us.write_all(&bytes).await.is_err() {
                    break;
                }
            }
            // Our side sees the end; a write to it can only fail if it has gone itself.
            let _ = to_us.shutdown().await;
        };
        let outward = async {
            let mut buffer = BytesMut::with_capacity(CHUNK_BYTES);
            loop {
                buffer.reserve(CHUNK_BYTES);
                match from_us.read_buf(&mut buffer).await {
                    Ok(0) | Err(_) => break,
                    Ok(_) => {
                        if let Err(error) = sink.send(Message::binary(buffer.split().freeze())).await {
                            return tracing::debug!(%error, "write to a WebSocket client");
                        }
                    }
                }
            }
            let close = CloseFrame { code: CloseCode::Normal, reason: "".into() };
            if let Err(error) = sink.send(Message::Close(Some(close))).await {
                tracing::debug!(%error, "close a WebSocket");
            }
        };
        tokio::pin!(inward, outward);
        tokio::select! {
            () = &mut inward => outward.await,
            // The client may take its time to answer the close, but not forever.
            () = &mut outward => {
                let _ = tokio::time::timeout(CLOSE_TIMEOUT, inward).await;
            }
        }
    });
    theirs
}
