//! `docs/api.md` is made from the rows. After a change of them: `UPDATE_EXPECT=1 cargo nextest run -p knarr-api the_page`.

use expect_test::expect_file;

use crate::kind::{Kind, Scope, VerbSet};
use crate::kinds::Kinds;

const HEAD: &str = "\
# The API

Every resource that Knarr serves, with its verbs and subresources. Made from the rows in `crates/api/src/kinds` by the test
`kinds::tests::document`; do not edit. Custom resources come on top at run time.

Verbs: *all* is create, delete, deletecollection, get, list, patch, update, watch.

| group/version | kind | resource | short | scope | verbs | subresources |
|---|---|---|---|---|---|---|
";

fn verbs(set: VerbSet) -> String {
    match set {
        VerbSet::ALL => "all".to_owned(),
        set => set.iter().map(|verb| verb.as_str()).collect::<Vec<_>>().join(", "),
    }
}

fn line(kind: &Kind) -> String {
    let scope = if kind.scope == Scope::Namespaced { "namespace" } else { "cluster" };
    let parts: Vec<String> = kind.subresources.iter().map(|part| format!("{} ({})", part.name, verbs(part.verbs))).collect();
    let columns = [kind.api_version(), kind.kind.to_string(), kind.resource.to_string(), kind.short_names.join(", "), scope.to_owned()];
    format!("| {} | {} | {} |\n", columns.join(" | "), verbs(kind.verbs), parts.join("; "))
}

#[test]
fn the_page_of_the_api_is_current() {
    let rows: String = Kinds::builtin().iter().map(|kind| line(kind)).collect();
    expect_file!["../../../../../docs/api.md"].assert_eq(&format!("{HEAD}{rows}"));
}
