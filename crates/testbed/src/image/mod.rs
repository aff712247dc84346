//! Images for tests, made offline from Debian packages: `busybox`, `nginx`, `redis`, `python`, `grpc`.
//!
//! A recipe names packages and a few files of its own; users, ports and entry points are as in the official images. All but
//! `busybox` share one base layer. The packages are fetched once with `apt-get download` and nothing is installed; the archives are kept
//! below `target/testbed-images` and made again only when their recipe changes. The same packages give the same bytes.
//!
//! Each image has the tags `:1`, `:2` (the same image, for updates) and `:latest`.

mod archive;
mod deb;
mod layer;
mod recipe;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

pub use archive::Format;
pub use layer::Tree;
pub use recipe::{Config, NAMES};

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error("there is no recipe for the image {0:?}; there are {NAMES:?}")]
    Unknown(String),
    #[error("{step} {}", path.display())]
    Path {
        step: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// `apt-get` and `dpkg-deb` say why on standard error.
    #[error("{program} for {package}: {reason}")]
    Package { program: &'static str, package: String, reason: String },
}

/// The archive of an image, made if it is not there yet, as Docker's `save` writes it.
pub fn image(name: &str) -> Result<PathBuf, Error> {
    image_as(name, Format::Docker)
}

/// The archive of an image in a given form.
pub fn image_as(name: &str, format: Format) -> Result<PathBuf, Error> {
    let recipe = recipe::recipe(name).ok_or_else(|| Error::Unknown(name.to_owned()))?;
    let dir = dir();
    fs::create_dir_all(&dir).map_err(at("create", &dir))?;
    let path = dir.join(format!("{name}-{}-{}.tar", recipe.fingerprint(), format.name()));
    if path.exists() {
        return Ok(path);
    }
    let _one_at_a_time = lock()?;
    if !path.exists() {
        let layers = recipe.layers(&dir.join("debs"))?;
        write(&path, |file| archive::write(file, format, name, &recipe.tags(), &layers, &recipe.config))?;
    }
    Ok(path)
}

/// An image of one's own: files on top of the shared base layer (libc, a shell and the usual tools), or on nothing.
pub fn custom(path: &Path, name: &str, with_base: bool, files: Tree, config: &Config, format: Format) -> Result<(), Error> {
    let mut layers = Vec::new();
    if with_base {
        let dir = dir();
        layers.push(recipe::base(&dir.join("debs"))?);
    }
    layers.push(files.into_layer());
    write(path, |file| archive::write(file, format, name, &[], &layers, config))
}

/// Tests run as many processes at a time: one makes an image, or fetches a package, the others wait for it. Held while the value lives.
pub(crate) fn lock() -> Result<fs::File, Error> {
    let dir = dir();
    fs::create_dir_all(&dir).map_err(at("create", &dir))?;
    let path = dir.join("lock");
    let lock = fs::File::create(&path).map_err(at("create", &path))?;
    lock.lock().map_err(at("lock", &path))?;
    Ok(lock)
}

/// The file of a package, fetched if it is not there yet. The caller holds the [`lock`].
pub(crate) fn deb(package: &str) -> Result<PathBuf, Error> {
    let debs = dir().join("debs");
    deb::fetch(&debs, &[package])?;
    deb::find(&debs, package)?.ok_or_else(|| deb::absent(package))
}

/// Writes a file whole or not at all.
fn write(path: &Path, fill: impl FnOnce(&mut dyn io::Write) -> io::Result<()>) -> Result<(), Error> {
    let half = path.with_extension("half");
    let file = fs::File::create(&half).map_err(at("create", &half))?;
    let mut file = io::BufWriter::new(file);
    fill(&mut file).map_err(at("write", &half))?;
    file.into_inner().map_err(|error| at("write", &half)(error.into_error()))?;
    fs::rename(&half, path).map_err(at("rename to", path))
}

/// `KNARR_TESTBED_IMAGES`, or `testbed-images` in the target directory.
pub(crate) fn dir() -> PathBuf {
    if let Some(dir) = std::env::var_os("KNARR_TESTBED_IMAGES") {
        return dir.into();
    }
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target"), PathBuf::from);
    target.join("testbed-images")
}

pub(crate) fn at(step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Path { step, path: path.to_owned(), source }
}
