//! Text that others had a hand in (guests, workers, files, artifacts), made fit to be shown.

use std::fmt::Write;

/// What may stand in a line: `text` must neither command a terminal nor look like another line or another text.
///
/// ```
/// assert_eq!(vm_model::printable("a\nb\u{202e}é"), r"a\nb\u{202e}é");
/// ```
pub fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        if is_disguise(character) {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
    shown
}

/// `json` with the same characters in its texts spelled out as JSON spells them. It says the same.
pub fn printable_json(json: &str) -> String {
    let mut shown = String::with_capacity(json.len());
    for character in json.chars() {
        // Line ends are between texts: within them they are spelled out already.
        if is_disguise(character) && character != '\n' {
            for unit in character.encode_utf16(&mut [0; 2]) {
                // Strings take everything.
                let _ = write!(shown, "\\u{unit:04x}");
            }
        } else {
            shown.push(character);
        }
    }
    shown
}

/// Whether a character has no form of its own but changes that of others, or looks like a blank and is none: control
/// characters, and Unicode's marks of direction, separators of lines, fillers, invisible joiners and tags.
pub fn is_disguise(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{ad}'
                | '\u{34f}'
                | '\u{61c}'
                | '\u{115f}'
                | '\u{1160}'
                | '\u{17b4}'
                | '\u{17b5}'
                | '\u{180e}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{3164}'
                | '\u{feff}'
                | '\u{ffa0}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changes_other_characters_or_looks_like_none_is_spelled_out() {
        assert_eq!(printable("a\nb\x1b[2J\u{9b}1m\u{202e}é"), "a\\nb\\u{1b}[2J\\u{9b}1m\\u{202e}é");
        assert_eq!(printable("\u{115f}\u{3164}\u{ffa0}"), "\\u{115f}\\u{3164}\\u{ffa0}");
    }

    #[test]
    fn json_says_the_same_in_characters_that_can_be_seen() {
        let text = "a\n\u{202e}\u{115f}\u{3164}\u{e0041}\u{9b}é";
        let json = serde_json::to_string_pretty(&[text]).expect("it is JSON");
        let shown = printable_json(&json);
        assert_eq!(shown, "[\n  \"a\\n\\u202e\\u115f\\u3164\\udb40\\udc41\\u009bé\"\n]");
        assert_eq!(serde_json::from_str::<Vec<String>>(&shown).expect("it is JSON"), [text]);
    }
}
