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
        let end = after_all(prefix);
        let to = end.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        // A client may ask for what comes after a name of another namespace.
        let inside = end.as_deref().is_none_or(|end| after.is_none_or(|after| after < end));
        let tree = self.collections.get(collection).filter(|_| inside);
        tree.map(|tree| tree.range::<_, str>((from, to))).into_iter().flatten().map(|(_, entry)| entry)
    }

    /// The entries that [`Self::range`] gives, to be walked through bit by bit.
    pub fn walk(&self, collection: &Collection, prefix: &str) -> Walk {
        Walk { state: self.only(collection, self.revision), collection: collection.clone(), prefix: prefix.into(), last: None }
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

/// A part of one state, and how far one has come in it. Holds the state of the collection as a whole and counts none of its entries: that
/// would be a good part of the work of a long list.
#[derive(Clone, Debug)]
pub struct Walk {
    state: Snapshot,
    collection: Collection,
    prefix: Box<str>,
    last: Option<Arc<str>>,
}

impl Walk {
    /// All that is still to come.
    pub fn rest(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.state.range(&self.collection, &self.prefix, self.last.as_deref())
    }

    /// Gives entries to `take` until it refuses one, which comes first the next time. Whether there was none that it refused.
    pub fn advance(&mut self, mut take: impl FnMut(&Entry) -> bool) -> bool {
        let mut taken = None;
        let refused = self.rest().find(|entry| {
            let takes = take(entry);
            if takes {
                taken = Some(&entry.key.name);
            }
            !takes
        });
        let (taken, all) = (taken.cloned(), refused.is_none());
        self.last = taken.or(self.last.take());
        all
    }
}

/// The least text behind every text that starts with `prefix`, which is ASCII as names are; none where there is no end.
fn after_all(prefix: &str) -> Option<String> {
    let mut end = prefix.to_owned();
    let last = end.pop()?;
    debug_assert!(last.is_ascii(), "names and namespaces are ASCII");
    end.push(char::from_u32(u32::from(last) + 1)?);
    Some(end)
}
