//! `knarr image`: orders to the Knarr that runs, or the image store itself when none does.

use std::{fs::File, io::Read, path::Path, sync::Arc};

use bytes::Bytes;
use futures::TryStreamExt as _;
use http::{Method, Request};
use http_body_util::{BodyExt as _, StreamBody, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::TokioIo;
use knarr_runtime::{Image, Images};
use tokio::net::UnixStream;
use tokio_util::io::ReaderStream;

use crate::{
    cli::{ImageCommand, Place},
    client::get::aligned,
    place,
    report::{Failure, chain},
};

/// Hex digits of an image's id in a list, as Docker shows them.
const ID_SHOWN: usize = 12;

pub(crate) fn run(command: ImageCommand, place: &Place) -> Result<(), Failure> {
    if place::holder(&place.data_dir)?.is_some() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        return runtime.block_on(order(command, place));
    }
    let held = place::Held::take(&place.data_dir)?;
    let images = Images::open(&held.data_dir.join("images"))?;
    let refused = |message| Failure::Failed(String::into(message));
    match command {
        ImageCommand::Import { archives } => {
            for archive in archives {
                print!("{}", import(&images, open(&archive)?).map_err(refused)?);
            }
        }
        ImageCommand::Export { image, archive } => images.export(&[&image], File::create(&archive)?)?,
        ImageCommand::List => print!("{}", table(&images.list())),
        ImageCommand::Remove { images: names } => {
            for name in names {
                print!("{}", remove(&images, &name).map_err(refused)?);
            }
        }
    }
    Ok(())
}

/// Takes in an archive; the answer names what it brought.
pub(crate) fn import(images: &Images, archive: impl Read) -> Result<String, String> {
    let imported = images.import(archive, &|_| {}).map_err(|error| chain(&error))?;
    Ok(imported.iter().map(|image| format!("imported {}\n", names(image))).collect())
}

pub(crate) fn remove(images: &Images, name: &str) -> Result<String, String> {
    images.remove(name).map_err(|error| chain(&error))?;
    images.gc().map_err(|error| chain(&error))?;
    Ok(format!("removed {name}\n"))
}

pub(crate) fn table(images: &[Arc<Image>]) -> String {
    let mut lines = vec![["NAME", "ID", "SIZE"].map(str::to_owned).to_vec()];
    for image in images {
        let id: String = image.id.trim_start_matches("sha256:").chars().take(ID_SHOWN).collect();
        let names = if image.names.is_empty() { vec!["<none>".to_owned()] } else { image.names.clone() };
        lines.extend(names.into_iter().map(|name| vec![name, id.clone(), size(image.size_bytes)]));
    }
    aligned(&lines)
}

fn names(image: &Image) -> String {
    if image.names.is_empty() { image.id.clone() } else { image.names.join(", ") }
}

/// Bytes for people: `12.3MB`, in powers of ten as registries count.
fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "kB", "MB"] {
        if value < 1000.0 {
            return if unit == "B" { format!("{value}B") } else { format!("{value:.1}{unit}") };
        }
        value /= 1000.0;
    }
    format!("{value:.1}GB")
}

fn open(archive: &Path) -> Result<File, Failure> {
    File::open(archive).map_err(|error| Failure::Usage(format!("open {}: {error}", archive.display())))
}

type Body = BoxBody<Bytes, std::io::Error>;

async fn order(command: ImageCommand, place: &Place) -> Result<(), Failure> {
    let empty = || http_body_util::Empty::new().map_err(|never| match never {}).boxed();
    match command {
        ImageCommand::Import { archives } => {
            for archive in archives {
                let file = tokio::fs::File::from_std(open(&archive)?);
                let body = StreamBody::new(ReaderStream::new(file).map_ok(Frame::data)).boxed();
                print!("{}", collected(send(place, Method::POST, "", body).await?).await?);
            }
        }
        ImageCommand::Export { image, archive } => {
            let mut body = send(place, Method::GET, &image, empty()).await?;
            let mut file = File::create(&archive)?;
            while let Some(frame) = body.frame().await {
                if let Ok(data) = frame?.into_data() {
                    std::io::Write::write_all(&mut file, &data)?;
                }
            }
            file.sync_all()?;
        }
        ImageCommand::List => print!("{}", collected(send(place, Method::GET, "", empty()).await?).await?),
        ImageCommand::Remove { images } => {
            for image in images {
                print!("{}", collected(send(place, Method::DELETE, &image, empty()).await?).await?);
            }
        }
    }
    Ok(())
}

async fn send(place: &Place, method: Method, image: &str, body: Body) -> Result<Incoming, Failure> {
    let socket = place::admin_socket(&place.data_dir)?;
    let stream =
        UnixStream::connect(&socket).await.map_err(|error| Failure::Machine(format!("reach Knarr at {}: {error}", socket.display())))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = Request::builder().method(method).uri(format!("/images/{image}")).header("host", "knarr").body(body)?;
    let response = sender.send_request(request).await?;
    if response.status().is_success() {
        return Ok(response.into_body());
    }
    Err(Failure::Failed(collected(response.into_body()).await?.into()))
}

async fn collected(body: Incoming) -> Result<String, Failure> {
    Ok(String::from_utf8_lossy(&body.collect().await?.to_bytes()).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_as_people_write_them() {
        let shown: Vec<_> = [0, 999, 1_000, 12_345_678, 9_876_543_210].into_iter().map(size).collect();
        assert_eq!(shown, ["0B", "999B", "1.0kB", "12.3MB", "9.9GB"]);
    }
}
