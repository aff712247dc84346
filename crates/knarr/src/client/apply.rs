//! `knarr apply`: server-side apply of every object in the given files.

use std::{
    fs,
    io::Read as _,
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::{JSON, connect, encoded, resources::Resources, send};
use crate::{cli::Apply, report::Failure};

/// The name under which the server records what was applied.
const FIELD_MANAGER: &str = "knarr";

pub(crate) async fn run(apply: &Apply) -> Result<(), Failure> {
    let objects = read(&apply.filenames)?;
    let client = connect(&apply.place).await?;
    let mut known = Resources::discover(&client).await?;
    for object in &objects {
        let (api_version, kind, name) = identity(object)?;
        let resource = match known.of_kind(api_version, kind) {
            Ok(resource) => resource,
            // A definition applied a moment ago brings kinds of its own.
            Err(_) => {
                known = Resources::discover(&client).await?;
                known.of_kind(api_version, kind)?
            }
        };
        let namespace = object.pointer("/metadata/namespace").and_then(Value::as_str).unwrap_or(&apply.namespace);
        let force = if apply.force_conflicts { "&force=true" } else { "" };
        let path = format!("{}/{}?fieldManager={FIELD_MANAGER}&fieldValidation=Strict{force}", resource.path(namespace), encoded(name));
        send(&client, "PATCH", &path, JSON, "application/apply-patch+yaml", serde_json::to_vec(object)?).await?;
        println!("{}/{name} applied", resource.display());
    }
    Ok(())
}

/// Every object in the files, in their order; lists are taken apart.
pub(super) fn read(filenames: &[PathBuf]) -> Result<Vec<Value>, Failure> {
    let mut objects = Vec::new();
    for filename in filenames {
        for (source, text) in documents(filename)? {
            let documents = text.split("\n---").map(|document| document.trim_start_matches("---"));
            let values = documents
                .filter(|document| document.lines().any(|line| !line.trim().is_empty() && !line.trim_start().starts_with('#')))
                .map(|document| knarr_api::decode::value_from_yaml(document.as_bytes()))
                .collect::<Result<Vec<_>, _>>()
                .map_err(|error| Failure::Usage(format!("{}: {error}", source.display())))?;
            for value in values {
                match value.get("items").and_then(Value::as_array) {
                    Some(items) if value.get("kind").and_then(Value::as_str).is_some_and(|kind| kind.ends_with("List")) => {
                        objects.extend(items.iter().cloned())
                    }
                    _ if value.is_null() => {}
                    _ => objects.push(value),
                }
            }
        }
    }
    if objects.is_empty() {
        return Err(Failure::Usage("the files hold no objects".to_owned()));
    }
    Ok(objects)
}

fn documents(filename: &Path) -> Result<Vec<(PathBuf, String)>, Failure> {
    let fault = |path: &Path, error: std::io::Error| Failure::Usage(format!("read {}: {error}", path.display()));
    if filename == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map_err(|error| fault(filename, error))?;
        return Ok(vec![("standard input".into(), text)]);
    }
    if !filename.is_dir() {
        let text = fs::read_to_string(filename).map_err(|error| fault(filename, error))?;
        return Ok(vec![(filename.to_owned(), text)]);
    }
    let mut paths: Vec<PathBuf> = fs::read_dir(filename)
        .and_then(|entries| entries.map(|entry| entry.map(|entry| entry.path())).collect())
        .map_err(|error| fault(filename, error))?;
    paths.retain(|path| path.extension().is_some_and(|extension| ["yaml", "yml", "json"].iter().any(|known| extension == *known)));
    paths.sort();
    paths.into_iter().map(|path| fs::read_to_string(&path).map_err(|error| fault(&path, error)).map(|text| (path, text))).collect()
}

/// apiVersion, kind and name.
pub(super) fn identity(object: &Value) -> Result<(&str, &str, &str), Failure> {
    let field = |pointer: &str| {
        object
            .pointer(pointer)
            .and_then(Value::as_str)
            .ok_or_else(|| Failure::Usage(format!("an object lacks {}", pointer.trim_start_matches('/').replace('/', "."))))
    };
    Ok((field("/apiVersion")?, field("/kind")?, field("/metadata/name")?))
}
