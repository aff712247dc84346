//! The state of the cluster at one revision.

use std::{ops::Bound, sync::Arc};

use imbl::{HashMap, OrdMap};

use crate::{Collection, Entry, Event, EventKind, Key, Revision};

type Tree = OrdMap<Arc<str>, Arc<Entry>>;

/// Every collection at one revision. Persistent maps: a clone is cheap, and readers never hold up the writer.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    pub revision: Revision,
    collections: HashMap<Collection, Tree>,
}

impl Snapshot {
    pub fn get(&self, key: &Key) -> Option<&Arc<Entry>> {
        self.collections.get(&key.collection)?.get(&*key.name)
    }

    /// The entries whose names start with `prefix` (`"namespace/"`, or `""` for all), in the order of their names, after the name `after`.
    pub fn range<'a>(
        &'a self,
        collection: &Collection,
        prefix: &'a str,
        after: Option<&'a str>,
    ) -> impl Iterator<Item = &'a Arc<Entry>> + 'a {
        let from = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let tree = self.collections.get(collection);
        tree.into_iter()
            .flat_map(move |tree| tree.range::<_, str>((from, Bound::Unbounded)))
            .map(|(_, entry)| entry)
            .take_while(move |entry| entry.key.name.starts_with(prefix))
    }

    pub fn len(&self, collection: &Collection) -> usize {
        self.collections.get(collection).map_or(0, OrdMap::len)
    }

    pub fn is_empty(&self) -> bool {
        self.collections.values().all(OrdMap::is_empty)
    }

    /// Every collection that has, or had, an entry.
    pub fn collections(&self) -> impl Iterator<Item = &Collection> {
        self.collections.keys()
    }

    pub(crate) fn insert(&mut self, entry: Arc<Entry>) {
        let Key { collection, name } = entry.key.clone();
        self.collections.entry(collection).or_default().insert(name, entry);
    }

    pub(crate) fn remove(&mut self, key: &Key) {
        if let Some(tree) = self.collections.get_mut(&key.collection) {
            tree.remove(&*key.name);
        }
    }

    /// Only `collection`, under `revision`.
    pub(crate) fn only(&self, collection: &Collection, revision: Revision) -> Self {
        let tree = self.collections.get(collection).cloned().unwrap_or_default();
        Self { revision, collections: HashMap::unit(collection.clone(), tree) }
    }

    /// Takes one change back. Changes must come newest first.
    pub(crate) fn undo(&mut self, event: &Event) {
        match (&event.previous, event.kind) {
            (Some(previous), _) => self.insert(previous.clone()),
            (None, EventKind::Put | EventKind::Delete) => self.remove(&event.entry.key),
        }
    }
}
