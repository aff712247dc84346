//! `knarr get`.

use serde_json::{Value, json};

use super::{JSON, connect, encoded, fetch, printable, resources};
use crate::{
    cli::{Get, Output},
    report::Failure,
};

const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";

/// Blanks between columns, as kubectl has them.
const GAP: usize = 3;

pub(crate) async fn run(get: &Get) -> Result<(), Failure> {
    let client = connect(&get.place).await?;
    let known = resources::Resources::discover(&client).await?;
    let targets = resources::targets(&get.what)?;
    let namespace = if get.namespace.all_namespaces { "" } else { &get.namespace.namespace };
    let several = targets.len() > 1;
    let mut items = Vec::new();
    for target in &targets {
        let resource = known.find(&target.resource)?;
        let mut path = resource.path(namespace);
        match &target.name {
            Some(name) => path = format!("{path}/{}", encoded(name)),
            None => path.push_str(&query(get)),
        }
        match get.output {
            None | Some(Output::Wide) => {
                let table = fetch(&client, &path, TABLE).await?;
                let prefix = several.then(|| format!("{}/", resource.display()));
                print_table(&table, get.output.is_some(), get.namespace.all_namespaces && resource.namespaced, prefix.as_deref());
            }
            Some(output) => {
                let answer = fetch(&client, &path, JSON).await?;
                match answer.get("items").and_then(Value::as_array) {
                    Some(list) => items.extend(list.iter().cloned()),
                    None => items.push(answer),
                }
                if output == Output::Name {
                    for item in items.drain(..) {
                        let name = item.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
                        println!("{}/{name}", resource.display());
                    }
                }
            }
        }
    }
    let single = targets.len() == 1 && targets[0].name.is_some();
    let whole = |items: Vec<Value>| match (single, items.len()) {
        (true, 1) => items.into_iter().next().unwrap_or_default(),
        _ => json!({ "apiVersion": "v1", "kind": "List", "items": items }),
    };
    match get.output {
        Some(Output::Json) => println!("{}", serde_json::to_string_pretty(&whole(items))?),
        Some(Output::Yaml) => print!("{}", knarr_api::yaml::to_yaml(&whole(items))),
        _ => {}
    }
    Ok(())
}

fn query(get: &Get) -> String {
    let mut parts = Vec::new();
    if let Some(selector) = &get.selector {
        parts.push(format!("labelSelector={}", encoded(selector)));
    }
    if let Some(selector) = &get.field_selector {
        parts.push(format!("fieldSelector={}", encoded(selector)));
    }
    if parts.is_empty() { String::new() } else { format!("?{}", parts.join("&")) }
}

/// Prints the table that the server rendered.
fn print_table(table: &Value, wide: bool, with_namespace: bool, name_prefix: Option<&str>) {
    let columns = table.get("columnDefinitions").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let rows = table.get("rows").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    if rows.is_empty() {
        eprintln!("No resources found.");
        return;
    }
    let shown: Vec<usize> = (0..columns.len()).filter(|index| wide || columns[*index]["priority"].as_i64() == Some(0)).collect();
    let mut lines: Vec<Vec<String>> = Vec::with_capacity(rows.len() + 1);
    let mut head: Vec<String> = shown.iter().map(|index| columns[*index]["name"].as_str().unwrap_or_default().to_uppercase()).collect();
    if with_namespace {
        head.insert(0, "NAMESPACE".to_owned());
    }
    lines.push(head);
    for row in rows {
        let mut cells: Vec<String> = shown.iter().map(|index| cell(&row["cells"][*index])).collect();
        if let (Some(prefix), Some(first)) = (name_prefix, cells.first_mut()) {
            first.insert_str(0, prefix);
        }
        if with_namespace {
            cells.insert(0, cell(&row["object"]["metadata"]["namespace"]));
        }
        lines.push(cells);
    }
    print!("{}", aligned(&lines));
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => "<none>".to_owned(),
        Value::String(text) => printable(text).replace('\n', " "),
        other => other.to_string(),
    }
}

/// Lines of cells, each column as wide as its widest cell.
pub(crate) fn aligned(lines: &[Vec<String>]) -> String {
    let columns = lines.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| lines.iter().filter_map(|line| line.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0);
    let widths: Vec<_> = (0..columns).map(width).collect();
    let mut text = String::new();
    for line in lines {
        let mut padded = String::new();
        for (cell, width) in line.iter().zip(&widths) {
            padded.push_str(&format!("{cell:<width$}{:GAP$}", "", width = *width));
        }
        text.push_str(padded.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let line = |cells: &[&str]| cells.iter().map(|cell| (*cell).to_owned()).collect();
        let text = aligned(&[line(&["NAME", "AGE"]), line(&["web-1", "5s"])]);
        assert_eq!(text, "NAME    AGE\nweb-1   5s\n");
    }

    #[test]
    fn a_cell_cannot_steer_the_terminal() {
        assert_eq!(cell(&json!("a\u{1b}[2Jb")), "a\u{fffd}[2Jb");
    }
}
