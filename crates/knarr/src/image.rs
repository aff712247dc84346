//! `knarr image`: orders to the Knarr that runs, or the image store itself when none does.

mod progress;
pub(crate) mod pull;

use std::{
    fs::{self, File},
    io::{self, Read, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use futures::TryStreamExt as _;
use http::Method;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use knarr_runtime::{Image, Images};
use tokio_util::io::ReaderStream;

use crate::{
    cli::{ImageCommand, Place},
    client::get::aligned,
    config::Config,
    orders::{collected, empty, full, send},
    place,
    report::{Failure, chain},
};

/// Hex digits of an image's id in a list, as Docker shows them.
const ID_SHOWN: usize = 12;

pub(crate) fn run(command: ImageCommand, place: &Place) -> Result<(), Failure> {
    // Better said before anything is asked of anyone: names become parts of URLs.
    let names: &[String] = match &command {
        ImageCommand::Pull { images, .. } | ImageCommand::Remove { images } => images,
        ImageCommand::Export { image, .. } => std::slice::from_ref(image),
        ImageCommand::Import { .. } | ImageCommand::List => &[],
    };
    names.iter().try_for_each(|name| Images::check_name(name)).map_err(|error| Failure::Usage(error.to_string()))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    if place::holder(&place.data_dir)?.is_some() {
        return runtime.block_on(order(command, place));
    }
    let held = place::Held::take(&place.data_dir)?;
    let registries = Config::last(&held)?.map_or_else(Default::default, |config| config.registries());
    let images = Images::open(&held.data_dir.join("images"), registries)?;
    let refused = |message| Failure::Failed(String::into(message));
    match command {
        ImageCommand::Pull { images: names, auth_file } => {
            let logins = pull::logins(auth_file.as_deref())?;
            for name in names {
                let shown = progress::Shown::new();
                let tell = shown.clone();
                let pulled = runtime.block_on(pull::pull(&images, &name, &logins, move |line| tell.show(&line)));
                shown.clear();
                print!("{}", pulled.map_err(refused)?);
            }
        }
        ImageCommand::Import { archives } => {
            for archive in archives {
                print!("{}", import(&images, open(&archive)?).map_err(refused)?);
            }
        }
        ImageCommand::Export { image, archive } => {
            if images.resolve(&image).is_none() {
                return Err(refused(not_here(&image)));
            }
            let half = Half::create(&archive)?;
            let written = images.export(&[&image], &half.file).map_err(Failure::from);
            half.finish(written)?;
        }
        ImageCommand::List => print!("{}", table(&images.list())),
        ImageCommand::Remove { images: names } => {
            for name in names {
                print!("{}", remove(&images, &name).map_err(refused)?);
            }
        }
    }
    Ok(())
}

/// A file that gets its name once it is whole: half an archive under the name of a whole one would be taken for it.
struct Half<'a> {
    path: &'a Path,
    half: PathBuf,
    file: File,
}

impl<'a> Half<'a> {
    fn create(path: &'a Path) -> Result<Self, Failure> {
        let mut half = path.as_os_str().to_owned();
        half.push(".part");
        let half = PathBuf::from(half);
        let file = File::create(&half).map_err(|error| Failure::Usage(format!("create {}: {error}", half.display())))?;
        Ok(Self { path, half, file })
    }

    fn finish(self, written: Result<(), Failure>) -> Result<(), Failure> {
        let fault = |error: io::Error| Failure::Failed(format!("write {}: {error}", self.path.display()).into());
        let done = written.and_then(|()| self.file.sync_all().and_then(|()| fs::rename(&self.half, self.path)).map_err(fault));
        if done.is_err() {
            // What cannot be removed still tells by its name that it is not whole.
            let _ = fs::remove_file(&self.half);
        }
        done
    }
}

/// Takes in an archive; the answer names what it brought.
pub(crate) fn import(images: &Images, archive: impl Read) -> Result<String, String> {
    let imported = images.import(archive, &|_| {}).map_err(|error| chain(&error))?;
    Ok(imported.iter().map(|image| format!("imported {}\n", names(image))).collect())
}

pub(crate) fn remove(images: &Images, name: &str) -> Result<String, String> {
    images.remove(name).map_err(|error| if error.is_not_found() { not_here(name) } else { chain(&error) })?;
    images.gc().map_err(|error| chain(&error))?;
    Ok(format!("removed {name}\n"))
}

/// Said of an image that an order names and the node has not.
pub(crate) fn not_here(name: &str) -> String {
    format!("there is no image {name:?} on this node; `knarr image list` shows them")
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

async fn order(command: ImageCommand, place: &Place) -> Result<(), Failure> {
    match command {
        ImageCommand::Pull { images, auth_file } => {
            let logins = pull::logins(auth_file.as_deref())?;
            for image in images {
                let answer = send(place, Method::POST, &format!("/pulls/{image}"), full(logins.clone())).await?;
                print!("{}", pull::follow(answer, &progress::Shown::new()).await?);
            }
        }
        ImageCommand::Import { archives } => {
            for archive in archives {
                let file = tokio::fs::File::from_std(open(&archive)?);
                let body = StreamBody::new(ReaderStream::new(file).map_ok(Frame::data)).boxed();
                print!("{}", collected(send(place, Method::POST, "/images/", body).await?).await?);
            }
        }
        ImageCommand::Export { image, archive } => {
            // The file is begun only once the image is known to be there.
            let mut body = send(place, Method::GET, &format!("/images/{image}"), empty()).await?;
            let mut half = Half::create(&archive)?;
            let written = copy(&mut body, &mut half.file).await;
            half.finish(written)?;
        }
        ImageCommand::List => print!("{}", collected(send(place, Method::GET, "/images/", empty()).await?).await?),
        ImageCommand::Remove { images } => {
            for image in images {
                print!("{}", collected(send(place, Method::DELETE, &format!("/images/{image}"), empty()).await?).await?);
            }
        }
    }
    Ok(())
}

async fn copy(body: &mut Incoming, file: &mut File) -> Result<(), Failure> {
    while let Some(frame) = body.frame().await {
        let frame =
            frame.map_err(|error| Failure::Failed(format!("the archive ended early, `knarr up --log info` says why: {error}").into()))?;
        if let Ok(data) = frame.into_data() {
            file.write_all(&data)?;
        }
    }
    Ok(())
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
