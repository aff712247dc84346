//! What upstream servers said, for as long as they said it is good, within limits.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{Name, RData, Record, RecordType};

/// Answers kept. With [`RECORDS_MAX`] and [`BYTES_MAX`] this bounds the memory to some ten megabytes in the worst case, and some
/// hundred kilobytes in an ordinary one.
const ENTRIES_MAX: usize = 4_096;
/// Longer answers are not kept.
const RECORDS_MAX: usize = 32;
/// Nor are larger ones: one that came by TCP may have 64 KiB of text, and any pod can ask for thousands.
const BYTES_MAX: usize = 4_096;
/// Longest time that an answer is kept, so that a change upstream is seen (as CoreDNS's default configuration has it).
const TTL_MAX: Duration = Duration::from_secs(30);
/// Longest time that a name is taken for absent.
const NEGATIVE_TTL_MAX: Duration = Duration::from_secs(10);

/// Name in lower case, type, and whether signatures were asked for.
pub(super) type Question = (Name, RecordType, bool);

pub(super) struct Cache {
    entries: HashMap<Question, Entry>,
    /// The same by the time of their end, so that the first to end goes when room is needed.
    by_end: BTreeMap<(Instant, u64), Question>,
    serial: u64,
}

struct Entry {
    end: Instant,
    serial: u64,
    since: Instant,
    /// Without a question.
    message: Message,
}

impl Cache {
    pub(super) fn new() -> Cache {
        Cache { entries: HashMap::new(), by_end: BTreeMap::new(), serial: 0 }
    }

    /// The answer with its times reduced by its age.
    pub(super) fn get(&self, question: &Question, now: Instant) -> Option<Message> {
        let entry = self.entries.get(question).filter(|entry| now < entry.end)?;
        let age = u32::try_from(now.duration_since(entry.since).as_secs()).unwrap_or(u32::MAX);
        let mut message = entry.message.clone();
        for record in message.answers.iter_mut().chain(&mut message.authorities).chain(&mut message.additionals) {
            record.ttl = record.ttl.saturating_sub(age);
        }
        Some(message)
    }

    pub(super) fn put(&mut self, question: Question, mut message: Message, now: Instant) {
        let records = message.answers.len() + message.authorities.len() + message.additionals.len();
        let Some(ttl) = lifetime(&message).filter(|ttl| !ttl.is_zero() && records <= RECORDS_MAX) else { return };
        if !message.to_vec().is_ok_and(|bytes| bytes.len() <= BYTES_MAX) {
            return;
        }
        self.remove(&question);
        while self.entries.len() >= ENTRIES_MAX {
            let Some((_, first)) = self.by_end.pop_first() else { break };
            self.entries.remove(&first);
        }
        self.serial += 1;
        message.queries.clear();
        let end = now + ttl;
        self.by_end.insert((end, self.serial), question.clone());
        self.entries.insert(question, Entry { end, serial: self.serial, since: now, message });
    }

    fn remove(&mut self, question: &Question) {
        if let Some(entry) = self.entries.remove(question) {
            self.by_end.remove(&(entry.end, entry.serial));
        }
    }
}

/// How long an answer may be kept; `None` for failures and truncated ones. RFC 2308 for what is not there.
fn lifetime(message: &Message) -> Option<Duration> {
    if message.metadata.truncation {
        return None;
    }
    let least = |records: &[Record]| records.iter().map(|record| record.ttl).min();
    match message.metadata.response_code {
        ResponseCode::NoError if !message.answers.is_empty() => {
            let seconds = least(&message.answers)?;
            Some(Duration::from_secs(seconds.into()).min(TTL_MAX))
        }
        ResponseCode::NoError | ResponseCode::NXDomain => {
            let soa = message.authorities.iter().find_map(|record| match &record.data {
                RData::SOA(soa) => Some(soa.minimum.min(record.ttl)),
                _ => None,
            })?;
            Some(Duration::from_secs(soa.into()).min(NEGATIVE_TTL_MAX))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::OpCode;
    use hickory_proto::rr::rdata::{A, SOA, TXT};

    use super::*;

    fn name(text: &str) -> Name {
        Name::from_ascii(text).expect("a name")
    }

    fn question(text: &str) -> Question {
        (name(text), RecordType::A, false)
    }

    fn positive(ttl: u32) -> Message {
        let mut message = Message::response(1, OpCode::Query);
        message.answers.push(Record::from_rdata(name("a.example."), ttl, RData::A(A([192, 0, 2, 1].into()))));
        message
    }

    #[test]
    fn an_answer_ages_and_ends() {
        let start = Instant::now();
        let mut cache = Cache::new();
        cache.put(question("a.example."), positive(20), start);
        let aged = cache.get(&question("a.example."), start + Duration::from_secs(7)).expect("kept");
        assert_eq!(aged.answers[0].ttl, 13);
        assert_eq!(cache.get(&question("a.example."), start + Duration::from_secs(20)), None);
        assert_eq!(cache.get(&question("b.example."), start), None);
    }

    #[test]
    fn absence_is_kept_as_its_zone_says_and_failure_never() {
        let start = Instant::now();
        let mut cache = Cache::new();
        let mut absent = Message::response(1, OpCode::Query);
        absent.metadata.response_code = ResponseCode::NXDomain;
        cache.put(question("no-soa.example."), absent.clone(), start);
        let soa = SOA::new(name("ns.example."), name("h.example."), 1, 1, 1, 1, 4);
        absent.authorities.push(Record::from_rdata(name("example."), 3_600, RData::SOA(soa)));
        cache.put(question("absent.example."), absent, start);
        let mut failure = Message::response(1, OpCode::Query);
        failure.metadata.response_code = ResponseCode::ServFail;
        cache.put(question("failing.example."), failure, start);
        let kept = |text: &str, seconds| cache.get(&question(text), start + Duration::from_secs(seconds)).is_some();
        assert_eq!((kept("absent.example.", 3), kept("absent.example.", 4)), (true, false));
        assert_eq!((kept("no-soa.example.", 0), kept("failing.example.", 0)), (false, false));
    }

    #[test]
    fn large_answers_are_not_kept() {
        let start = Instant::now();
        let mut cache = Cache::new();
        let mut large = positive(20);
        large.answers.push(Record::from_rdata(name("a.example."), 20, RData::TXT(TXT::new(vec!["x".repeat(200); 30]))));
        cache.put(question("large.example."), large, start);
        assert_eq!(cache.get(&question("large.example."), start), None);
    }

    #[test]
    fn the_first_to_end_makes_room() {
        let start = Instant::now();
        let mut cache = Cache::new();
        cache.put(question("short.example."), positive(1), start);
        for number in 0..ENTRIES_MAX {
            cache.put(question(&format!("n{number}.example.")), positive(20), start);
        }
        assert_eq!((cache.entries.len(), cache.by_end.len()), (ENTRIES_MAX, ENTRIES_MAX));
        assert_eq!(cache.get(&question("short.example."), start), None);
        assert!(cache.get(&question("n0.example."), start).is_some());
    }
}
