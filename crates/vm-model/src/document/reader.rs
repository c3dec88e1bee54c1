//! From a text to nodes (RFC 8259), with a word for each thing that people take JSON to allow.

use serde_json::Number;

use super::{Content, MAX_DEPTH, Member, Node, Place, SyntaxProblem};
use crate::{shown_key, shown_text};

/// The value that `text` is.
///
/// # Errors
/// Says what is no JSON, where, and what would be.
pub(crate) fn read(text: &str) -> Result<Node, SyntaxProblem> {
    let mut reader = Reader { text, offset: 0, seen: 0, place: Place { line: 1, column: 1 } };
    if text.starts_with('\u{feff}') {
        return Err(reader.problem("a byte-order mark", "UTF-8 without one"));
    }
    reader.skip_blanks()?;
    match reader.peek() {
        None => return Err(reader.problem("nothing: the text is empty", "an object")),
        // Also the first line of YAML, which is what people write by hand.
        Some(first) if !matches!(first, '{' | '[' | '"') && text[reader.offset..].contains(": ") => {
            return Err(
                reader.problem("what looks like YAML", "JSON, with braces around and quotation marks")
            );
        }
        Some(_) => {}
    }
    let value = reader.value(0)?;
    reader.skip_blanks()?;
    match reader.peek() {
        None => Ok(value),
        Some(_) => Err(reader.unexpected("the end of the text after its one value")),
    }
}

struct Reader<'a> {
    text: &'a str,
    /// Bytes that were read.
    offset: usize,
    /// Bytes that `place` has counted.
    seen: usize,
    place: Place,
}

impl Reader<'_> {
    fn rest(&self) -> &str {
        self.text.get(self.offset..).unwrap_or_default()
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    /// Where the reader is. All calls together look at each byte once.
    fn here(&mut self) -> Place {
        for character in self.text.get(self.seen..self.offset).unwrap_or_default().chars() {
            if character == '\n' {
                self.place = Place { line: self.place.line + 1, column: 1 };
            } else {
                self.place.column += 1;
            }
        }
        self.seen = self.offset;
        self.place
    }

    fn problem(&mut self, met: impl Into<String>, accepted: &'static str) -> SyntaxProblem {
        SyntaxProblem { place: self.here(), met: met.into(), accepted }
    }

    /// The problem that something else stands here than what is accepted.
    fn unexpected(&mut self, accepted: &'static str) -> SyntaxProblem {
        let met = match self.peek() {
            None => "the end of the text: it is cut short".to_owned(),
            Some('\'') => "a single quotation mark: JSON has double ones".to_owned(),
            Some(first) if first.is_alphanumeric() || first == '_' => {
                let is_word = |character: char| !character.is_alphanumeric() && character != '_';
                let word = self.rest().split(is_word).next().unwrap_or_default();
                let is_key = self.rest()[word.len()..].trim_start().starts_with(':');
                // Whatever else stands there may be a secret.
                match is_key || FOREIGN_WORDS.contains(&word) {
                    true => format!("{} without quotation marks", shown_key(word)),
                    false => format!("a word of {} bytes without quotation marks", word.len()),
                }
            }
            Some(other) => format!("the character {other:?}"),
        };
        self.problem(met, accepted)
    }

    fn skip_blanks(&mut self) -> Result<(), SyntaxProblem> {
        self.offset += self.rest().len() - self.rest().trim_start_matches([' ', '\t', '\r', '\n']).len();
        let rest = self.rest();
        if rest.starts_with("//") || rest.starts_with("/*") || rest.starts_with('#') {
            return Err(self.problem("a comment", "JSON, which has none"));
        }
        Ok(())
    }

    fn value(&mut self, depth: usize) -> Result<Node, SyntaxProblem> {
        let place = self.here();
        let content = match self.peek() {
            Some('{') => self.object(depth)?,
            Some('[') => self.list(depth)?,
            Some('"') => Content::Text(self.text()?),
            Some('-' | '+' | '.' | '0'..='9') => self.number()?,
            Some(_) | None => self.word()?,
        };
        Ok(Node { place, content })
    }

    fn word(&mut self) -> Result<Content, SyntaxProblem> {
        let rest = self.rest();
        let end = rest.find(|character: char| !character.is_alphanumeric()).unwrap_or(rest.len());
        let (content, length) = match &rest[..end] {
            "null" => (Content::Null, 4),
            "true" => (Content::Bool(true), 4),
            "false" => (Content::Bool(false), 5),
            _ => {
                return Err(
                    self.unexpected("a value: text in \"…\", a number, true, false, null, […] or {…}")
                );
            }
        };
        self.offset += length;
        Ok(content)
    }

    fn number(&mut self) -> Result<Content, SyntaxProblem> {
        let rest = self.rest();
        let is_part =
            |character: char| character.is_alphanumeric() || matches!(character, '+' | '-' | '.' | '_');
        let end = rest.find(|character| !is_part(character)).unwrap_or(rest.len());
        let number = &rest[..end];
        match serde_json::from_str::<Number>(number) {
            Ok(value) => {
                self.offset += end;
                Ok(Content::Number(value))
            }
            Err(_) => {
                let met = match is_size(number) {
                    true => format!("{}, which is no number of JSON", shown_text(number)),
                    false => format!("something of {} bytes that is no number of JSON", number.len()),
                };
                Err(self.problem(met, "digits like 536870912, without unit, leading zero or plus"))
            }
        }
    }

    fn text(&mut self) -> Result<String, SyntaxProblem> {
        let bytes = self.rest().as_bytes();
        let mut end = 1;
        loop {
            match bytes.get(end) {
                Some(b'"') => break,
                Some(b'\\') => end += 2,
                Some(b'\n') | None => {
                    return Err(self.problem(
                        "a text whose closing quotation mark is missing",
                        "text in \"…\" on one line",
                    ));
                }
                Some(_) => end += 1,
            }
        }
        match self.rest().get(..=end).map(serde_json::from_str::<String>) {
            Some(Ok(text)) => {
                self.offset += end + 1;
                Ok(text)
            }
            Some(Err(_)) | None => Err(self.problem(
                "a text with a control character or an unknown escape",
                "\\\" \\\\ \\n \\t and \\u with four hexadecimal digits",
            )),
        }
    }

    fn list(&mut self, depth: usize) -> Result<Content, SyntaxProblem> {
        let mut items = Vec::new();
        self.open(depth)?;
        if self.closes(']')? {
            return Ok(Content::List(items));
        }
        loop {
            items.push(self.value(depth + 1)?);
            if self.ends_after_item(']', "',' or ']'")? {
                return Ok(Content::List(items));
            }
        }
    }

    fn object(&mut self, depth: usize) -> Result<Content, SyntaxProblem> {
        let mut members = Vec::new();
        self.open(depth)?;
        if self.closes('}')? {
            return Ok(Content::Object(members));
        }
        loop {
            let place = self.here();
            if self.peek() != Some('"') {
                return Err(self.unexpected("a key in \"…\""));
            }
            let name = self.text()?;
            self.skip_blanks()?;
            if self.peek() != Some(':') {
                return Err(self.unexpected("':' after a key"));
            }
            self.offset += 1;
            self.skip_blanks()?;
            members.push(Member { place, name, value: self.value(depth + 1)? });
            if self.ends_after_item('}', "',' or '}'")? {
                return Ok(Content::Object(members));
            }
        }
    }

    /// Steps over an opening bracket.
    fn open(&mut self, depth: usize) -> Result<(), SyntaxProblem> {
        if depth >= MAX_DEPTH {
            return Err(self.problem("lists or objects nested too deeply", "at most 64 within each other"));
        }
        self.offset += 1;
        self.skip_blanks()
    }

    /// Steps over the closing bracket, where it is here.
    fn closes(&mut self, bracket: char) -> Result<bool, SyntaxProblem> {
        let is_here = self.peek() == Some(bracket);
        self.offset += usize::from(is_here);
        Ok(is_here)
    }

    /// Steps over what follows an item; whether that was the closing bracket.
    fn ends_after_item(&mut self, bracket: char, accepted: &'static str) -> Result<bool, SyntaxProblem> {
        self.skip_blanks()?;
        if self.closes(bracket)? {
            return Ok(true);
        }
        if self.peek() != Some(',') {
            return Err(self.unexpected(accepted));
        }
        let comma = self.here();
        self.offset += 1;
        self.skip_blanks()?;
        if matches!(self.peek(), Some('}' | ']')) {
            let met = "a comma after the last item".to_owned();
            return Err(SyntaxProblem { place: comma, met, accepted: "commas between items only" });
        }
        Ok(false)
    }
}

/// Values of other languages that people take for ones of JSON.
const FOREIGN_WORDS: [&str; 12] =
    ["True", "False", "TRUE", "FALSE", "None", "NULL", "Null", "nil", "undefined", "NaN", "yes", "no"];

/// Whether `number` is a number in another form, like 512M or 007, and thus no secret.
fn is_size(number: &str) -> bool {
    let unit =
        number.trim_start_matches(|character: char| character.is_ascii_digit() || ".+-_".contains(character));
    number.len() <= 24 && unit.len() <= 3 && unit.chars().all(char::is_alphabetic)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    #[test]
    fn what_people_take_for_json_is_named_with_its_place() {
        for (text, line, column, met) in [
            ("", 1, 1, "empty"),
            (" \n", 2, 1, "empty"),
            ("\u{feff}{}", 1, 1, "byte-order mark"),
            ("vms:\n  - id: web-1\n", 1, 1, "YAML"),
            ("---\nvms: []\n", 1, 1, "YAML"),
            ("{\n  // mine\n}", 2, 3, "a comment"),
            ("{} # mine", 1, 4, "a comment"),
            ("{\"é\": [1,\n2, ]}", 2, 2, "a comma after the last item"),
            ("{\"a\": 1,}", 1, 8, "a comma after the last item"),
            ("{\"a\": 'b'}", 1, 7, "single quotation mark"),
            ("{a: 1}", 1, 2, "\"a\" without quotation marks"),
            ("{\"a\": True}", 1, 7, "\"True\" without quotation marks"),
            ("{\"a\": 1 \"b\": 2}", 1, 9, "the character '\"'"),
            ("{\"a\": 512M}", 1, 7, "\"512M\", which is no number"),
            ("{\"a\": 007}", 1, 7, "\"007\", which is no number"),
            ("{\"a\": hunter2}", 1, 7, "a word of 7 bytes without quotation marks"),
            ("{\"a\": 2hunter}", 1, 7, "something of 7 bytes that is no number"),
            ("{\"a\": \"b", 1, 7, "closing quotation mark"),
            ("{\"a\": \"\\q\"}", 1, 7, "unknown escape"),
            ("{\"a\": \"\\ud800\"}", 1, 7, "unknown escape"),
            ("{\"a\": [", 1, 8, "cut short"),
            ("{\"a\"", 1, 5, "cut short"),
            ("{} {}", 1, 4, "the character '{'"),
        ] {
            let problem = read(text).expect_err(text);
            assert_eq!((problem.place.line, problem.place.column), (line, column), "{text:?}: {problem:?}");
            assert!(problem.met.contains(met), "{text:?}: {problem:?}");
        }
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(read(&deep).expect_err("too deep").met.contains("nested"));
    }

    #[test]
    fn a_key_that_is_there_twice_stays_twice() {
        let node = read("{\"a\": 1,\n \"a\": 2}").expect("it is JSON");
        let second = node.into_value().expect_err("twice");
        assert_eq!((second.name.as_str(), second.place), ("a", Place { line: 2, column: 2 }));
    }

    proptest! {
        #[test]
        fn whatever_comes_is_read_as_serde_json_reads_it(
            text in r#"[\[\]{}":,\\a-c0-3eunltrfs. \n/+-]{0,24}"#,
        ) {
            let ours = read(&text).ok().map(|node| node.into_value().ok());
            let theirs: Option<Value> = serde_json::from_str(&text).ok();
            match ours {
                None => prop_assert_eq!(theirs, None),
                // A key is there twice: theirs takes the last.
                Some(None) => prop_assert!(theirs.is_some()),
                Some(Some(value)) => prop_assert_eq!(theirs, Some(value)),
            }
        }

        #[test]
        fn nothing_makes_it_panic(text in "\\PC*") {
            let _ = read(&text);
        }
    }
}
