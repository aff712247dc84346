//! A layer as a sorted tree of files, so that the same files give the same tar.

use std::collections::BTreeMap;

/// 2026-01-01T00:00:00Z: any fixed time will do, but programs complain of 1970.
const MTIME: u64 = 1_767_225_600;

#[derive(Clone, Debug)]
enum Node {
    Directory { mode: u32, owner: u32 },
    File { mode: u32, owner: u32, bytes: Vec<u8> },
    Symlink(String),
}

/// Files by path, without a leading slash.
#[derive(Clone, Debug, Default)]
pub struct Tree(BTreeMap<String, Node>);

impl Tree {
    pub fn new() -> Tree {
        Tree::default()
    }

    /// Owned by user and group `owner`. Parents are made as they are needed.
    pub fn dir(mut self, path: &str, mode: u32, owner: u32) -> Tree {
        self.put(path, Node::Directory { mode, owner });
        self
    }

    pub fn file(mut self, path: &str, mode: u32, bytes: impl Into<Vec<u8>>) -> Tree {
        self.put(path, Node::File { mode, owner: 0, bytes: bytes.into() });
        self
    }

    pub fn symlink(mut self, path: &str, target: &str) -> Tree {
        self.put(path, Node::Symlink(target.to_owned()));
        self
    }

    pub(crate) fn has(&self, path: &str) -> bool {
        self.0.contains_key(path)
    }

    fn put(&mut self, path: &str, node: Node) {
        let path = path.trim_matches('/');
        let mut end = 0;
        while let Some(slash) = path[end..].find('/') {
            end += slash;
            self.0.entry(path[..end].to_owned()).or_insert(Node::Directory { mode: 0o755, owner: 0 });
            end += 1;
        }
        match (self.0.get(path), &node) {
            // A link that stands for a directory (usr-merge) stays.
            (Some(Node::Symlink(_)), Node::Directory { .. }) => {}
            _ => {
                self.0.insert(path.to_owned(), node);
            }
        }
    }

    /// Adds what is in a tar, with every path as `place` wants it; what it gives `None` for is left out.
    pub(crate) fn add_tar(&mut self, tar: impl std::io::Read, place: impl Fn(&str) -> Option<String>) -> std::io::Result<()> {
        let mut archive = tar::Archive::new(tar);
        for entry in archive.entries()? {
            let mut entry = entry?;
            let path = entry.path()?.to_string_lossy().trim_start_matches("./").trim_matches('/').to_owned();
            let Some(path) = place(&path).filter(|path| !path.is_empty()) else { continue };
            let mode = entry.header().mode()?;
            let kind = entry.header().entry_type();
            let link = entry.link_name()?.map(|link| link.to_string_lossy().into_owned());
            if kind.is_dir() {
                self.put(&path, Node::Directory { mode, owner: 0 });
            } else if kind.is_symlink() {
                self.put(&path, Node::Symlink(link.unwrap_or_default()));
            } else if kind.is_hard_link() {
                let target = place(link.unwrap_or_default().trim_start_matches("./")).and_then(|target| self.0.get(&target).cloned());
                let target = target.ok_or_else(|| std::io::Error::other(format!("{path} links to a file that was left out")))?;
                self.put(&path, target);
            } else if kind.is_file() {
                let mut bytes = Vec::new();
                std::io::Read::read_to_end(&mut entry, &mut bytes)?;
                self.put(&path, Node::File { mode, owner: 0, bytes });
            }
        }
        Ok(())
    }

    /// The tar of the layer.
    pub(crate) fn into_layer(self) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        for (path, node) in self.0 {
            let mut header = tar::Header::new_gnu();
            header.set_mtime(MTIME);
            let (kind, mode, owner) = match &node {
                Node::Directory { mode, owner } => (tar::EntryType::Directory, *mode, *owner),
                Node::File { mode, owner, .. } => (tar::EntryType::Regular, *mode, *owner),
                Node::Symlink(_) => (tar::EntryType::Symlink, 0o777, 0),
            };
            header.set_entry_type(kind);
            header.set_mode(mode & 0o7777);
            header.set_uid(owner.into());
            header.set_gid(owner.into());
            header.set_size(0);
            let written = match node {
                Node::Directory { .. } => tar.append_data(&mut header, format!("{path}/"), std::io::empty()),
                Node::File { bytes, .. } => {
                    header.set_size(bytes.len() as u64);
                    tar.append_data(&mut header, &path, bytes.as_slice())
                }
                Node::Symlink(target) => tar.append_link(&mut header, &path, target),
            };
            written.expect("a Vec takes every write, and paths of packages fit a tar");
        }
        tar.into_inner().expect("a Vec takes every write")
    }
}
