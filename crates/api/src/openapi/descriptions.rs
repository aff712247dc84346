//! What messages and fields mean, in upstream's words.
//!
//! The text is half a megabyte, needed only while a document is made; so it stands compressed in the binary and is dropped with the
//! document. `cargo xtask descriptions` writes it.

use std::collections::HashMap;
use std::io::Read as _;

use flate2::read::GzDecoder;

const COMPRESSED: &[u8] = include_bytes!("descriptions.txt.gz");

pub(super) struct Descriptions {
    /// By definition and field; of the definition itself where the field is empty.
    texts: HashMap<(String, String), String>,
}

impl Descriptions {
    pub(super) fn load() -> Descriptions {
        let mut text = String::new();
        // What was compressed at build time is whole; were it not, documents would only lack descriptions.
        if GzDecoder::new(COMPRESSED).read_to_string(&mut text).is_err() {
            text.clear();
        }
        let mut definition = "";
        let mut texts = HashMap::new();
        for line in text.lines() {
            let (name, description) = line.split_once(' ').unwrap_or((line, ""));
            let field = name.strip_prefix('\t');
            if field.is_none() {
                definition = name;
            }
            if !description.is_empty() {
                texts.insert((definition.to_owned(), field.unwrap_or("").to_owned()), description.replace("\\n", "\n"));
            }
        }
        Descriptions { texts }
    }

    /// Empty where there is none. `field` is empty for the definition itself.
    pub(super) fn of(&self, definition: &str, field: &str) -> &str {
        self.texts.get(&(definition.to_owned(), field.to_owned())).map_or("", String::as_str)
    }
}
