//! Writes the descriptions that OpenAPI documents carry.
//!
//! k8s-openapi's sources have upstream's descriptions in the schemas of its types. Building it with them would cost minutes and megabytes,
//! so this reads them from the source text, once for each version of k8s-openapi, into one compressed file of the `api` crate.
//! A line is a definition and its description, or a tab, a field and its description, with `\n` for line breaks.

use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
};

use cargo_metadata::MetadataCommand;
use flate2::{Compression, write::GzEncoder};

use crate::run::{Outcome, root};

/// The sources of the API version that the workspace is built for.
const VERSION_FOLDER: &str = "src/v1_37";

const OUTPUT: &str = "crates/api/src/openapi/descriptions.txt.gz";

/// By definition: its description under "", those of its fields under their names.
type Descriptions = BTreeMap<String, BTreeMap<String, String>>;

pub(crate) fn run(_: &[String]) -> Outcome {
    let metadata = MetadataCommand::new().current_dir(root()).exec().map_err(|error| error.to_string())?;
    let package =
        metadata.packages.iter().find(|package| package.name.as_str() == "k8s-openapi").ok_or("k8s-openapi is not a dependency")?;
    let folder = package.manifest_path.parent().ok_or("k8s-openapi has no folder")?.join(VERSION_FOLDER);
    let mut found = Descriptions::new();
    let mut folders = vec![PathBuf::from(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).map_err(|error| format!("read {}: {error}", folder.display()))? {
            let path = entry.map_err(|error| error.to_string())?.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                read(&path, &mut found)?;
            }
        }
    }
    let mut text = String::new();
    for (definition, fields) in &found {
        text += &format!("{definition} {}\n", fields.get("").map_or("", String::as_str));
        for (field, description) in fields.iter().filter(|(field, _)| !field.is_empty()) {
            text += &format!("\t{field} {description}\n");
        }
    }
    let path = root().join(OUTPUT);
    let mut file = GzEncoder::new(Vec::new(), Compression::best());
    file.write_all(text.as_bytes()).map_err(|error| error.to_string())?;
    let bytes = file.finish().map_err(|error| error.to_string())?;
    fs::write(&path, &bytes).map_err(|error| format!("write {}: {error}", path.display()))?;
    println!("{} definitions, {} bytes of text, {} compressed", found.len(), text.len(), bytes.len());
    Ok(())
}

/// The schema of a type is written one key a line: the type's keys are 12 spaces in, its fields 16.
fn read(path: &Path, found: &mut Descriptions) -> Outcome {
    let text = fs::read_to_string(path).map_err(|error| format!("read {}: {error}", path.display()))?;
    let Some((_, schema)) = text.split_once("fn schema_name()") else { return Ok(()) };
    let Some(definition) = schema.split('"').nth(1) else { return Ok(()) };
    let fields = found.entry(definition.to_owned()).or_default();
    let mut field = String::new();
    for line in schema.lines() {
        let indent = line.len() - line.trim_start().len();
        let line = line.trim_start();
        if indent == 16 && (line.ends_with("\": {") || line.ends_with("\": ({")) {
            field = line.split('"').nth(1).unwrap_or_default().to_owned();
        }
        let description = match indent {
            12 => line.strip_prefix("\"description\": ").map(|rest| (String::new(), rest)),
            20 => line
                .strip_prefix("\"description\": ")
                .or(line.strip_prefix("schema_obj.ensure_object().insert(\"description\".into(), "))
                .map(|rest| (field.clone(), rest)),
            _ => None,
        };
        if let Some((name, rest)) = description {
            fields.entry(name).or_insert(literal(rest));
        }
    }
    Ok(())
}

/// A string literal, without its quotes and as far as one line can hold it.
fn literal(source: &str) -> String {
    let mut text = String::new();
    let mut letters = source.trim_start_matches('"').chars();
    while let Some(letter) = letters.next() {
        match letter {
            '"' => break,
            '\\' => match letters.next() {
                Some('n') => text.push_str("\\n"),
                Some('t') => text.push(' '),
                Some(other) => text.push(other),
                None => break,
            },
            other => text.push(other),
        }
    }
    text
}
