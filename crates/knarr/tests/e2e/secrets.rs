//! Secrets at rest, as one who runs Knarr meets them: nothing in plain in the data directory, `knarr secrets`, a key that is lost.

use std::{fs, path::Path};

use crate::harness::Knarr;

/// `the secret words`, in base64 as clients send it.
const WORDS: &str = "dGhlIHNlY3JldCB3b3Jkcw==";

fn found(dir: &Path, texts: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            found.extend(self::found(&entry.path(), texts));
        } else if kind.is_file() {
            let content = fs::read(entry.path()).unwrap();
            let content = String::from_utf8_lossy(&content);
            found.extend(texts.iter().filter(|text| content.contains(**text)).map(|_| entry.path().display().to_string()));
        }
    }
    found
}

#[test]
fn secrets_are_sealed_from_the_first_start_through_kill_9_and_say_when_their_key_is_lost() {
    knarr_testbed::require_root!();
    knarr_testbed::netns::run(|| {
        let mut knarr = Knarr::new();
        knarr.up();
        knarr.apply(&format!("apiVersion: v1\nkind: Secret\nmetadata: {{name: words}}\ndata: {{words: {WORDS}}}\n"));
        let is_readable = |knarr: &Knarr| knarr.run(&["get", "secret/words", "-o", "json"]).contains(WORDS);
        assert!(is_readable(&knarr));
        assert_eq!(found(&knarr.data_dir(), &[WORDS, "the secret words"]), Vec::<String>::new(), "while it runs");
        let status = knarr.run(&["secrets", "status"]);
        assert!(
            status.contains("core/secrets") && status.contains("aesgcm:v1:local-") && status.contains("the cluster's own key"),
            "{status}"
        );
        let told = knarr.run(&["secrets", "rotate"]);
        assert!(told.contains("with a new key") && told.contains("back that file up"), "{told}");
        assert_ne!(knarr.run(&["secrets", "status"]), status);

        // Killed while a key turns over: the next start ends it.
        let mut rotating = knarr.command(&["secrets", "rotate"]).stderr(std::process::Stdio::null()).spawn().unwrap();
        knarr.kill();
        rotating.wait().unwrap();
        knarr.up();
        assert!(is_readable(&knarr));
        let file = knarr.data_dir().join("pki/encryption.json");
        knarr.eventually("one key is left", |_| fs::read_to_string(&file).unwrap().matches("\"secret\"").count() == 1);
        knarr.kill();
        assert_eq!(found(&knarr.data_dir(), &[WORDS, "the secret words"]), Vec::<String>::new(), "after kill -9");

        // The key is lost: the start says of what and what to do, and nothing else happens.
        let backup = fs::read(&file).unwrap();
        fs::remove_file(&file).unwrap();
        let refused = knarr.command(&["up", "--node-name", "node-1"]).output().unwrap();
        let message = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(1), "{message}");
        for part in ["core/secrets/", "aesgcm:v1:local-", "pki/encryption.json", "knarr secrets status"] {
            assert!(message.contains(part), "{message}");
        }
        let audit = knarr.data_dir().join("audit/audit.log");
        knarr.eventually("its making and reading are in the audit log", |_| {
            let log = fs::read_to_string(&audit).unwrap_or_default();
            let of_words =
                log.lines().filter(|line| line.contains(r#""objectRef":{"resource":"secrets","namespace":"default","name":"words""#));
            of_words.filter(|line| line.contains(r#""verb":"patch""#) || line.contains(r#""verb":"get""#)).count() >= 2
        });
        let report = knarr.run(&["secrets", "report", "words", "-n", "default", "--since", "1h"]);
        let row = |verb: &str| report.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).find(|row| row.get(2) == Some(&verb));
        for verb in ["patch", "get"] {
            let row = row(verb).unwrap_or_else(|| panic!("no {verb}: {report}"));
            assert!(row[3..5] == ["default", "words"] && row[6] == "done", "{report}");
        }
        let missing = knarr.command(&["secrets", "report", "--audit-log-path", "/nowhere/audit.log"]).output().unwrap();
        assert_eq!(missing.status.code(), Some(2));
        assert!(String::from_utf8_lossy(&missing.stderr).contains("there is no audit log /nowhere/audit.log"));
        let status = knarr.run(&["secrets", "status"]);
        assert!(status.contains("core/secrets") && status.contains("aesgcm:v1:local-"), "{status}");
        fs::write(&file, backup).unwrap();
        knarr.up();
        assert!(is_readable(&knarr));
    })
    .expect("a network namespace can be made");
}
