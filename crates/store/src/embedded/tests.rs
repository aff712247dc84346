use std::path::Path;

use super::*;
use crate::{Event, EventKind, Expect, Key};

fn configmaps() -> Collection {
    Collection::new("core/configmaps")
}

fn key(name: &str) -> Key {
    Key::new(&configmaps(), "default", name)
}

const HEAD: &str = r#"{"metadata":{"#;

fn put(name: &str, text: &str, expect: Expect) -> Write {
    let value = format!(r#"{HEAD}"name":"{name}"}},"data":"{text}"}}"#).into();
    Write::Put { key: key(name), value, stamp: HEAD.len(), meta: None, expect, lazy: false }
}

fn delete(name: &str) -> Write {
    Write::Delete { key: key(name), expect: Expect::Any }
}

fn open(dir: &Path) -> Embedded {
    // Tests run on whatever disk there is.
    Embedded::open(dir, Options { reserve_bytes: 0, ..Options::default() }).expect("the store opens")
}

fn text(snapshot: &Snapshot, name: &str) -> Option<String> {
    snapshot.get(&key(name)).map(|entry| String::from_utf8_lossy(&entry.value).into_owned())
}

fn shown(events: &[Arc<Event>]) -> Vec<String> {
    events
        .iter()
        .map(|event| {
            let verb = if event.kind == EventKind::Put { "put" } else { "delete" };
            format!("{verb} {} at {}", event.entry.key.name, event.entry.revision)
        })
        .collect()
}

#[tokio::test]
async fn a_put_carries_its_own_revision() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let committed = store.commit(vec![put("a", "1", Expect::Absent)]).await.unwrap();
    assert_eq!(committed[0].revision, Revision(1));
    let expected = r#"{"metadata":{"resourceVersion":"1","name":"a"},"data":"1"}"#;
    assert_eq!(text(&store.snapshot(), "a").as_deref(), Some(expected));
}

#[tokio::test]
async fn a_walk_goes_on_where_it_stopped_through_the_state_that_it_began_in() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.commit(["a", "b", "c"].map(|name| put(name, "", Expect::Absent)).into()).await.unwrap();
    let mut walk = store.snapshot().walk(&configmaps(), "default/");
    store.commit(vec![delete("c"), put("d", "", Expect::Absent)]).await.unwrap();
    let mut seen = Vec::new();
    for room in [1, 0, 1, 2, 2] {
        let mut room = room;
        let all = walk.advance(|entry| {
            let takes = room > 0;
            if takes {
                room -= 1;
                seen.push(entry.key.name.to_string());
            }
            takes
        });
        assert_eq!(all, seen.len() == 3, "{seen:?}");
        assert_eq!(walk.rest().count(), 3 - seen.len());
    }
    assert_eq!(seen, ["default/a", "default/b", "default/c"]);
    assert!(store.snapshot().walk(&configmaps(), "other/").advance(|_| false), "there is nothing to refuse");
}

#[tokio::test]
async fn a_write_on_an_old_revision_is_refused_and_shows_the_current_one() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.commit(vec![put("a", "1", Expect::Absent)]).await.unwrap();
    store.commit(vec![put("a", "2", Expect::Revision(Revision(1)))]).await.unwrap();
    let refused = store.commit(vec![put("a", "3", Expect::Revision(Revision(1)))]).await.unwrap_err();
    assert!(matches!(refused, CommitError::Conflict { current: Some(current), .. } if current.revision == Revision(2)));
    let refused = store.commit(vec![put("a", "3", Expect::Absent)]).await.unwrap_err();
    assert!(matches!(refused, CommitError::Conflict { .. }));
}

#[tokio::test]
async fn of_several_writes_all_are_applied_or_none() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.commit(vec![put("a", "1", Expect::Absent)]).await.unwrap();
    store.commit(vec![put("b", "1", Expect::Absent), put("a", "2", Expect::Absent)]).await.unwrap_err();
    assert_eq!(text(&store.snapshot(), "b"), None);
    assert_eq!(store.snapshot().revision, Revision(1));
    let committed = store.commit(vec![put("b", "1", Expect::Absent), delete("a")]).await.unwrap();
    assert_eq!(committed.iter().map(|entry| entry.revision.0).collect::<Vec<_>>(), [2, 3]);
    assert_eq!(text(&store.snapshot(), "a"), None);
}

#[tokio::test]
async fn a_watch_delivers_every_change_once_and_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.commit(vec![put("a", "1", Expect::Any)]).await.unwrap();
    let mut watch = store.watch(&configmaps(), Revision(1)).unwrap();
    store.commit(vec![put("b", "1", Expect::Any)]).await.unwrap();
    let batch = watch.next().await.unwrap();
    assert_eq!(shown(&batch.events), ["put default/b at 2"]);
    let (_, batch) = tokio::join!(store.commit(vec![delete("a"), put("a", "2", Expect::Any)]), watch.next());
    let batch = batch.unwrap();
    assert_eq!(shown(&batch.events), ["delete default/a at 3", "put default/a at 4"]);
    let last = String::from_utf8_lossy(&batch.events[0].entry.value).into_owned();
    assert_eq!(last, r#"{"metadata":{"resourceVersion":"3","name":"a"},"data":"1"}"#);
    assert_eq!(batch.revision, Revision(4));
}

#[tokio::test]
async fn progress_of_a_quiet_watch_follows_the_other_collections() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let pods = Collection::new("core/pods");
    let mut watch = store.watch(&pods, Revision(0)).unwrap();
    store.commit(vec![put("a", "1", Expect::Any)]).await.unwrap();
    assert_eq!(watch.progress(), Revision(1));
    let mut busy = store.watch(&configmaps(), Revision(0)).unwrap();
    assert_eq!(busy.progress(), Revision(0), "an undelivered event is not passed over");
    busy.next().await.unwrap();
    assert_eq!(busy.progress(), Revision(1));
}

#[tokio::test]
async fn a_watch_of_the_future_or_of_forgotten_history_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.commit(vec![put("a", "1", Expect::Any), put("a", "2", Expect::Any)]).await.unwrap();
    assert_eq!(store.watch(&configmaps(), Revision(9)).unwrap_err(), HistoryError::Future { current: Revision(2) });
    drop(store);
    let store = open(dir.path());
    assert!(matches!(store.watch(&configmaps(), Revision(1)).unwrap_err(), HistoryError::Compacted { .. }));
}

#[tokio::test]
async fn a_slow_watcher_is_told_and_holds_nobody_back() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut slow = store.watch(&configmaps(), Revision(0)).unwrap();
    let rounds: Vec<_> = (0..9_000).map(|round| put("a", &round.to_string(), Expect::Any)).collect();
    store.commit(rounds).await.unwrap();
    assert!(matches!(slow.next().await.unwrap_err(), HistoryError::Compacted { .. }));
}

#[tokio::test]
async fn a_snapshot_of_the_past_is_exact() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.commit(vec![put("a", "1", Expect::Any), put("b", "1", Expect::Any)]).await.unwrap();
    store.commit(vec![put("a", "2", Expect::Any), delete("b"), put("c", "1", Expect::Any)]).await.unwrap();
    let past = store.snapshot_at(&configmaps(), Revision(2)).unwrap();
    let names: Vec<_> = past.range(&configmaps(), "default/", None).map(|entry| (&*entry.key.name, entry.revision.0)).collect();
    assert_eq!(names, [("default/a", 1), ("default/b", 2)]);
}

#[tokio::test]
async fn a_range_starts_after_a_name_and_stays_in_its_namespace() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.commit(["a", "b", "c"].map(|name| put(name, "1", Expect::Any)).to_vec()).await.unwrap();
    let other = Key::new(&configmaps(), "default-2", "z");
    let Write::Put { value, stamp, .. } = put("z", "1", Expect::Any) else { unreachable!() };
    store.commit(vec![Write::Put { key: other, value, stamp, meta: None, expect: Expect::Any, lazy: false }]).await.unwrap();
    let snapshot = store.snapshot();
    let names: Vec<_> = snapshot.range(&configmaps(), "default/", Some("default/a")).map(|entry| &*entry.key.name).collect();
    assert_eq!(names, ["default/b", "default/c"]);
    assert_eq!(snapshot.range(&configmaps(), "", None).count(), 4);
    assert_eq!(snapshot.range(&configmaps(), "default/", Some("other/a")).count(), 0);
    assert_eq!(snapshot.range(&configmaps(), "default/", Some("a/z")).count(), 3);
}

#[tokio::test]
async fn lazy_writes_survive_an_orderly_stop_and_never_turn_the_revision_back() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let Write::Put { key, value, stamp, meta, expect, .. } = put("lease", "1", Expect::Any) else { unreachable!() };
    let lazy = Write::Put { key, value, stamp, meta, expect, lazy: true };
    store.commit(vec![lazy]).await.unwrap();
    drop(store);
    let store = open(dir.path());
    assert!(text(&store.snapshot(), "lease").is_some());
    assert_eq!(store.snapshot().revision, Revision(1));
}

#[tokio::test]
async fn a_second_process_is_told_who_has_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let _store = open(dir.path());
    let Err(refused) = Embedded::open(dir.path(), Options::default()) else { panic!("opened twice") };
    let message = refused.to_string();
    assert!(message.contains(&format!("process {}", std::process::id())), "{message}");
}

#[tokio::test]
async fn an_object_over_the_limit_is_refused_with_the_limit() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let refused = store.commit(vec![put("big", &"x".repeat(VALUE_BYTES_MAX), Expect::Any)]).await.unwrap_err();
    assert!(refused.to_string().contains("the limit is 1572864"), "{refused}");
}

#[tokio::test]
async fn a_closed_store_refuses_writes_ends_watches_and_can_be_opened_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut watch = store.watch(&configmaps(), Revision(0)).unwrap();
    store.close();
    assert!(matches!(store.commit(vec![put("a", "1", Expect::Any)]).await.unwrap_err(), CommitError::Closed));
    assert_eq!(watch.next().await.unwrap_err(), HistoryError::Closed);
    open(dir.path());
}
