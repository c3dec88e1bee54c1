//! DNS messages (RFC 1035 §4) as far as they are read and written here: a header, one question, a few records.

use std::net::IpAddr;

/// Bytes of a header.
const HEADER_BYTES: usize = 12;
/// The most bytes of a name (§2.3.4) and of one label.
const NAME_BYTES_MOST: usize = 255;
const LABEL_BYTES_MOST: usize = 63;
/// Bits of the flags (§4.1.1).
const RESPONSE: u16 = 0x8000;
const OPCODE: u16 = 0x7800;
const AUTHORITATIVE: u16 = 0x0400;
const TRUNCATED: u16 = 0x0200;
const RECURSION_DESIRED: u16 = 0x0100;
const RECURSION_AVAILABLE: u16 = 0x0080;
/// Types of records (§3.2.2).
pub(super) const TYPE_A: u16 = 1;
pub(super) const TYPE_AAAA: u16 = 28;
const TYPE_SOA: u16 = 6;
pub(super) const TYPE_PTR: u16 = 12;
/// A question for all types (§3.2.3).
pub(super) const TYPE_ANY: u16 = 255;
/// The Internet's class.
pub(super) const CLASS_IN: u16 = 1;
/// For how many seconds an answer may be kept: a VM that comes or goes is seen soon.
const KEPT_SECONDS: u32 = 5;
/// Where the question's name stands, as a name that points there (§4.1.4).
const QUESTION_NAME: u16 = 0xc00c;

/// A question that was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Query<'a> {
    /// The asker's number of it.
    pub(super) id: u16,
    recursion: bool,
    /// Name, type and class as they were sent.
    question: &'a [u8],
    /// The name in lower case, without the last dot; `None` where it has characters that no name of ours has.
    pub(super) name: Option<String>,
    pub(super) kind: u16,
    pub(super) class: u16,
}

/// Why a message is no question to be answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Unanswerable {
    /// It is none; whoever sent it hears nothing.
    Nonsense,
    /// It is refused by this message.
    Refused(Vec<u8>),
}

/// How a question was met (§4.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Code {
    NoError = 0,
    FormatError = 1,
    ServerFailure = 2,
    NoSuchName = 3,
    NotImplemented = 4,
}

/// What a record says of the question's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Record {
    Address(IpAddr),
    Name(String),
}

impl Record {
    /// Its type.
    pub(super) fn kind(&self) -> u16 {
        match self {
            Self::Address(IpAddr::V4(_)) => TYPE_A,
            Self::Address(IpAddr::V6(_)) => TYPE_AAAA,
            Self::Name(_) => TYPE_PTR,
        }
    }

    fn data(&self) -> Vec<u8> {
        match self {
            Self::Address(IpAddr::V4(address)) => address.octets().to_vec(),
            Self::Address(IpAddr::V6(address)) => address.octets().to_vec(),
            Self::Name(name) => encode_name(name),
        }
    }
}

/// Reads a question. The whole of the message is looked at as far as the question goes; what follows is for whoever it is
/// passed on to.
pub(crate) fn parse(message: &[u8]) -> Result<Query<'_>, Unanswerable> {
    let (Some(id), Some(flags)) = (read_u16(message, 0), read_u16(message, 2)) else {
        return Err(Unanswerable::Nonsense);
    };
    if message.len() < HEADER_BYTES || flags & RESPONSE != 0 {
        return Err(Unanswerable::Nonsense);
    }
    let refused =
        |code| Unanswerable::Refused(header(id, flags & (OPCODE | RECURSION_DESIRED), code, [0; 4]));
    if flags & OPCODE != 0 {
        return Err(refused(Code::NotImplemented));
    }
    let counts = [4, 6, 8, 10].map(|at| read_u16(message, at).unwrap_or_default());
    // A question, and at most what extends the protocol (RFC 6891) and signs the message.
    let [1, 0, 0, 0..=2] = counts else { return Err(refused(Code::FormatError)) };
    let (name, end) = read_name(message).ok_or_else(|| refused(Code::FormatError))?;
    let (Some(kind), Some(class), Some(question)) =
        (read_u16(message, end), read_u16(message, end + 2), message.get(HEADER_BYTES..end + 4))
    else {
        return Err(refused(Code::FormatError));
    };
    Ok(Query { id, recursion: flags & RECURSION_DESIRED != 0, question, name, kind, class })
}

/// The name behind the header, and where it ends. A name that points elsewhere is none that is asked for.
fn read_name(message: &[u8]) -> Option<(Option<String>, usize)> {
    let (mut name, mut is_plain, mut at) = (String::new(), true, HEADER_BYTES);
    loop {
        let length = usize::from(*message.get(at)?);
        at += 1;
        if at - HEADER_BYTES + length > NAME_BYTES_MOST || length > LABEL_BYTES_MOST {
            return None;
        }
        if length == 0 {
            return Some((is_plain.then_some(name), at));
        }
        let label = message.get(at..at + length)?;
        at += length;
        is_plain &= label.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
        if !name.is_empty() {
            name.push('.');
        }
        name.extend(label.iter().map(|byte| char::from(byte.to_ascii_lowercase())));
    }
}

/// Whether `answer` is one to `query` as it was passed on under the number `id`.
pub(crate) fn is_answer_to(answer: &[u8], id: u16, query: &Query<'_>) -> bool {
    let Some((name, kind_and_class)) = query.question.split_last_chunk::<4>() else { return false };
    let its_name = answer.get(HEADER_BYTES..HEADER_BYTES + name.len());
    let rest = answer.get(HEADER_BYTES + name.len()..);
    read_u16(answer, 0) == Some(id)
        && read_u16(answer, 2).is_some_and(|flags| flags & (RESPONSE | OPCODE) == RESPONSE)
        && read_u16(answer, 4) == Some(1)
        && its_name.is_some_and(|its| its.eq_ignore_ascii_case(name))
        && rest.is_some_and(|rest| rest.starts_with(kind_and_class))
}

/// Gives a message another number.
pub(super) fn renumber(message: &mut [u8], id: u16) {
    if let Some(place) = message.get_mut(..2) {
        place.copy_from_slice(&id.to_be_bytes());
    }
}

/// The answer of a zone that is ours. Without `records` it says who is in charge of `domain`, so that the absence may be
/// remembered (RFC 2308 §3).
pub(super) fn answer(query: &Query<'_>, code: Code, records: &[&Record], domain: Option<&str>) -> Vec<u8> {
    let count = u16::try_from(records.len()).unwrap_or_default();
    let domain = domain.filter(|_| records.is_empty());
    let flags = AUTHORITATIVE | own_flags(query);
    let mut message = header(query.id, flags, code, [1, count, u16::from(domain.is_some()), 0]);
    message.extend(query.question);
    for record in records.iter().take(usize::from(count)) {
        push_record(&mut message, &QUESTION_NAME.to_be_bytes(), record.kind(), &record.data());
    }
    if let Some(domain) = domain {
        let owner = encode_name(domain);
        let mut authority = owner.clone();
        authority.extend(encode_name(&format!("hostmaster.{domain}")));
        // Serial, refresh, retry, expiry, and how long an absence may be kept: nobody copies this zone.
        for number in [1, 3600, 600, 86_400, KEPT_SECONDS] {
            authority.extend(number.to_be_bytes());
        }
        push_record(&mut message, &owner, TYPE_SOA, &authority);
    }
    message
}

/// That `query` could not be answered.
pub(super) fn failure(query: &Query<'_>) -> Vec<u8> {
    bare(query, Code::ServerFailure, 0)
}

/// That the answer is too long for a datagram: the asker comes again by TCP.
pub(super) fn truncated(query: &Query<'_>) -> Vec<u8> {
    bare(query, Code::NoError, TRUNCATED)
}

fn bare(query: &Query<'_>, code: Code, flags: u16) -> Vec<u8> {
    let mut message = header(query.id, flags | own_flags(query), code, [1, 0, 0, 0]);
    message.extend(query.question);
    message
}

fn own_flags(query: &Query<'_>) -> u16 {
    RECURSION_AVAILABLE | if query.recursion { RECURSION_DESIRED } else { 0 }
}

fn header(id: u16, flags: u16, code: Code, counts: [u16; 4]) -> Vec<u8> {
    let flags = RESPONSE | flags | code as u16;
    [id, flags].into_iter().chain(counts).flat_map(u16::to_be_bytes).collect()
}

fn push_record(message: &mut Vec<u8>, owner: &[u8], kind: u16, data: &[u8]) {
    message.extend(owner);
    message.extend(kind.to_be_bytes());
    message.extend(CLASS_IN.to_be_bytes());
    message.extend(KEPT_SECONDS.to_be_bytes());
    message.extend(u16::try_from(data.len()).unwrap_or_default().to_be_bytes());
    message.extend(data);
}

/// A name of ours: its labels are short enough.
fn encode_name(name: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(name.len() + 2);
    for label in name.split('.') {
        bytes.push(u8::try_from(label.len()).unwrap_or_default());
        bytes.extend(label.bytes());
    }
    bytes.push(0);
    bytes
}

fn read_u16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A question with the number 7 that wishes for recursion.
    pub(crate) fn question(name: &str, kind: u16) -> Vec<u8> {
        let mut message = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        message.extend(encode_name(name));
        message.extend(kind.to_be_bytes());
        message.extend(CLASS_IN.to_be_bytes());
        message
    }

    #[test]
    fn a_question_is_read() {
        let message = question("Web-1.VM.internal", TYPE_A);
        let query = parse(&message).unwrap();
        assert_eq!((query.id, query.kind, query.class), (7, TYPE_A, CLASS_IN));
        assert_eq!(query.name.as_deref(), Some("web-1.vm.internal"));
        assert_eq!(parse(&question("a b.c", TYPE_A)).unwrap().name, None);
    }

    #[test]
    fn what_is_no_question_is_refused_or_passed_over() {
        let good = question("web.example", TYPE_A);
        let with = |at: usize, byte: u8| {
            let mut message = good.clone();
            message[at] = byte;
            parse(&message).map(|_| ()).unwrap_err()
        };
        let code = |error: Unanswerable| match error {
            Unanswerable::Nonsense => None,
            Unanswerable::Refused(message) => Some(message[3] & 0xf),
        };
        assert_eq!(code(with(2, 0x81)), None, "an answer");
        assert_eq!(code(with(2, 0x29)), Some(4), "an update");
        assert_eq!(code(with(5, 2)), Some(1), "two questions");
        assert_eq!(code(with(7, 1)), Some(1), "with an answer");
        assert_eq!(code(with(12, 0xc0)), Some(1), "a name that points elsewhere");
        assert_eq!(code(parse(&good[..good.len() - 1]).unwrap_err()), Some(1), "cut short");
        assert_eq!(code(parse(&good[..11]).unwrap_err()), None);
        let long = question(&vec!["a".repeat(63); 5].join("."), TYPE_A);
        assert_eq!(code(parse(&long).unwrap_err()), Some(1), "too long a name");
    }

    #[test]
    fn answers_are_told_from_what_others_send() {
        let message = question("web.example", TYPE_A);
        let query = parse(&message).unwrap();
        let mut answer = question("WEB.example", TYPE_A);
        answer[2] |= 0x80;
        assert!(is_answer_to(&answer, 7, &query));
        assert!(!is_answer_to(&answer, 8, &query), "another number");
        assert!(!is_answer_to(&message, 7, &query), "a question");
        let mut other = question("web.exampla", TYPE_A);
        other[2] |= 0x80;
        assert!(!is_answer_to(&other, 7, &query), "of another name");
        let mut other = question("web.example", TYPE_PTR);
        other[2] |= 0x80;
        assert!(!is_answer_to(&other, 7, &query), "of another type");
        renumber(&mut answer, 9);
        assert!(is_answer_to(&answer, 9, &query));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), id: u16) {
            let good = question("web.example", TYPE_A);
            let query = parse(&good).unwrap();
            let _ = is_answer_to(&bytes, id, &query);
            if let Ok(query) = parse(&bytes) {
                prop_assert!(query.name.as_ref().is_none_or(|name| name.len() <= NAME_BYTES_MOST));
                for reply in [failure(&query), truncated(&query), answer(&query, Code::NoSuchName, &[], Some("vm.internal"))] {
                    prop_assert!(is_answer_to(&reply, query.id, &query));
                }
            }
        }
    }
}
