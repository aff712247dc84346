//! An image made of this program: its file, the loader that it names, and the libraries that are mapped into this process.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, Read as _, Seek as _, Write},
    path::{Path, PathBuf},
};

use knarr_runtime::Images;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::report::Failure;

/// Where the program is in the image.
const PROGRAM: &str = "/knarr";

/// Takes the image in under `name`; one that is the same is found to be there.
pub(super) fn import(images: &Images, name: &str) -> Result<(), Failure> {
    let program = File::open("/proc/self/exe")?;
    let libraries = libraries()?;
    let mut members = vec![(PathBuf::from(PROGRAM), program)];
    if let Some(loader) = interpreter()? {
        for library in &libraries {
            members.push((library.clone(), File::open(library)?));
        }
        // Under the name that the program asks for, which may be a link on this machine.
        if !libraries.contains(&loader) {
            members.push((loader.clone(), File::open(&loader)?));
        }
    }
    let path: BTreeSet<&Path> = libraries.iter().filter_map(|it| it.parent()).collect();
    let path: Vec<_> = path.into_iter().map(|it| it.display().to_string()).collect();
    // Once for its size and digest, once for good: the archive says them before the layer comes.
    let mut measure = Measure { hash: Sha256::new(), bytes: 0 };
    layer(&mut measure, &mut members)?;
    let diff = format!("sha256:{}", measure.hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect::<String>());
    let config = json!({
        "os": "linux", "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "config": {"Entrypoint": [PROGRAM, super::web::COMMAND], "Env": [format!("LD_LIBRARY_PATH={}", path.join(":"))], "ExposedPorts": {"8080/tcp": {}}},
        "rootfs": {"type": "layers", "diff_ids": [diff]},
    });
    let manifest = json!([{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]);
    let (reader, writer) = io::pipe()?;
    std::thread::scope(|scope| {
        let bytes = measure.bytes;
        let written = scope.spawn(move || {
            let mut writer = io::BufWriter::with_capacity(1 << 20, writer);
            for (name, text) in [("config.json", config.to_string()), ("manifest.json", manifest.to_string())] {
                writer.write_all(header(name, text.len() as u64, 0o644)?.as_bytes())?;
                writer.write_all(text.as_bytes())?;
                pad(&mut writer, text.len() as u64)?;
            }
            writer.write_all(header("layer.tar", bytes, 0o644)?.as_bytes())?;
            layer(&mut writer, &mut members)?;
            pad(&mut writer, bytes)?;
            writer.write_all(&[0; 1024])?;
            writer.flush()
        });
        images.import(reader, &|_| {})?;
        written.join().map_err(|_| io::Error::other("the thread that wrote the image panicked"))??;
        Ok(())
    })
}

/// The layer as a tar stream; the same files give the same bytes.
fn layer(out: &mut impl Write, members: &mut [(PathBuf, File)]) -> io::Result<()> {
    let mut dirs = BTreeSet::new();
    for (path, _) in members.iter() {
        dirs.extend(path.ancestors().skip(1).filter(|dir| dir.parent().is_some()).map(Path::to_owned));
    }
    for dir in dirs {
        let mut header = header(&relative(&dir), 0, 0o755)?;
        header.set_entry_type(tar::EntryType::Directory);
        header.set_cksum();
        out.write_all(header.as_bytes())?;
    }
    for (path, file) in members {
        let size = file.metadata()?.len();
        file.rewind()?;
        out.write_all(header(&relative(path), size, 0o755)?.as_bytes())?;
        if io::copy(&mut file.take(size), out)? != size {
            return Err(io::Error::other(format!("{} became shorter while it was read", path.display())));
        }
        pad(out, size)?;
    }
    out.write_all(&[0; 1024])
}

fn relative(path: &Path) -> String {
    path.to_string_lossy().trim_start_matches('/').to_owned()
}

fn header(path: &str, size: u64, mode: u32) -> io::Result<tar::Header> {
    let mut header = tar::Header::new_ustar();
    header.set_path(path)?;
    header.set_size(size);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_cksum();
    Ok(header)
}

fn pad(out: &mut impl Write, size: u64) -> io::Result<()> {
    let rest = usize::try_from(size.next_multiple_of(512) - size).unwrap_or(0);
    out.write_all(&[0; 512][..rest])
}

struct Measure {
    hash: Sha256,
    bytes: u64,
}

impl Write for Measure {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What is mapped executable into this process, beside the program itself (proc(5), /proc/pid/maps).
fn libraries() -> io::Result<BTreeSet<PathBuf>> {
    let own = std::fs::read_link("/proc/self/exe")?;
    let maps = std::fs::read_to_string("/proc/self/maps")?;
    let executable = maps.lines().filter(|line| line.split_whitespace().nth(1).is_some_and(|rights| rights.contains('x')));
    let paths = executable.filter_map(|line| line.find('/').map(|at| PathBuf::from(&line[at..])));
    Ok(paths.filter(|path| *path != own && path.is_file()).collect())
}

/// The loader that an ELF program of 64 bits names; none in a static one (elf(5): PT_INTERP).
fn interpreter() -> io::Result<Option<PathBuf>> {
    const PT_INTERP: u32 = 3;
    let mut file = File::open("/proc/self/exe")?;
    let mut head = [0; 64];
    file.read_exact(&mut head)?;
    let number = |bytes: &[u8]| bytes.iter().rev().fold(0u64, |sum, byte| (sum << 8) | u64::from(*byte));
    let (table, size, count) = (number(&head[32..40]), number(&head[54..56]), number(&head[56..58]));
    for index in 0..count {
        let mut entry = [0; 56];
        file.seek(io::SeekFrom::Start(table + index * size))?;
        file.read_exact(&mut entry)?;
        if number(&entry[0..4]) == u64::from(PT_INTERP) {
            let mut text = Vec::new();
            file.seek(io::SeekFrom::Start(number(&entry[8..16])))?;
            (&mut file).take(number(&entry[32..40]).min(4096)).read_to_end(&mut text)?;
            let text = String::from_utf8_lossy(&text).trim_end_matches('\0').to_owned();
            return Ok(Some(PathBuf::from(text)));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_program_names_its_loader_and_its_libraries() {
        let loader = interpreter().unwrap().expect("tests are linked dynamically");
        assert!(loader.is_file(), "{loader:?}");
        assert!(libraries().unwrap().iter().any(|it| it.to_string_lossy().contains("libc")));
    }

    #[test]
    fn the_image_starts_this_program() {
        let dir = tempfile::tempdir().unwrap();
        let images = Images::open(dir.path(), Default::default()).unwrap();
        import(&images, "knarr.local/demo:1").unwrap();
        let first = images.resolve("knarr.local/demo:1").unwrap();
        assert_eq!(first.config.entrypoint, ["/knarr", "demo-web"]);
        import(&images, "knarr.local/demo:1").unwrap();
        assert_eq!(images.list().len(), 1, "the same files are the same image");
    }
}
