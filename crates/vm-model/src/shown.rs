//! What a refusal shows of a value or key that it refuses.
//!
//! Documents hold secrets, and people paste them into the wrong place. A refusal ends up in logs and in others' answers, so
//! it shows only what is short and plain, which is what a mistyped word looks like; of all else it says the kind and the
//! length. Whoever refuses something that somebody wrote shows it by these functions and by no others.

use serde_json::Value;

/// Longest text that is shown.
const TEXT_MOST: usize = 24;
/// Longest key that is shown.
const KEY_MOST: usize = 31;
/// Longest number that is shown.
const NUMBER_MOST: usize = 16;
/// Longest store path that is shown as a key.
const STORE_PATH_MOST: usize = 120;

/// `text` as a refusal shows it: in quotation marks where it is short and plain, else its length.
///
/// ```
/// assert_eq!(vm_model::shown_text("on"), "\"on\"");
/// assert_eq!(vm_model::shown_text("{\"value\": \"hunter2\"}"), "a text of 20 bytes");
/// ```
pub fn shown_text(text: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:+ ".contains(&byte);
    if text.len() <= TEXT_MOST && text.bytes().all(is_plain) {
        format!("\"{text}\"")
    } else {
        format!("a text of {} bytes", text.len())
    }
}

/// `key` as a refusal shows it: in quotation marks where it is short and plain or a store path, else its length.
pub fn shown_key(key: &str) -> String {
    if is_shown_key(key) || is_store_path(key) {
        format!("\"{key}\"")
    } else {
        format!("a key of {} bytes", key.len())
    }
}

/// The JSON path of member `key` of the object at `path`, which is empty for the document as a whole.
pub fn shown_path(path: &str, key: &str) -> String {
    match (is_shown_key(key), path.is_empty()) {
        (true, true) => key.to_owned(),
        (true, false) => format!("{path}.{key}"),
        (false, _) => format!("{path}[{}]", shown_key(key)),
    }
}

/// `number`, as JSON spells it, as a refusal shows it: a long one may be a secret, too.
pub fn shown_number(number: &str) -> String {
    if number.len() <= NUMBER_MOST {
        number.to_owned()
    } else {
        format!("a number of {} characters", number.len())
    }
}

/// `value` as a refusal shows it: of lists and objects only how many items they have.
pub fn shown_value(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Number(number) => shown_number(&number.to_string()),
        Value::String(text) => shown_text(text),
        Value::Array(items) => format!("a list of {}", items.len()),
        Value::Object(members) => format!("an object of {}", members.len()),
    }
}

/// Whether `key` is short and looks like a name.
fn is_shown_key(key: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    (1..=KEY_MOST).contains(&key.len()) && key.bytes().all(is_plain)
}

fn is_store_path(key: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./+?=".contains(&byte);
    let is_short = key.len() <= STORE_PATH_MOST && key.starts_with("/nix/store/");
    key.bytes().all(is_plain) && (is_short || key.len() <= TEXT_MOST && key.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_short_and_plain_is_shown_and_nothing_else() {
        for (text, shown) in [
            ("", "\"\""),
            ("512M", "\"512M\""),
            ("127.0.0.1:5353:53/udp", "\"127.0.0.1:5353:53/udp\""),
            ("a\nb", "a text of 3 bytes"),
            ("a=b", "a text of 3 bytes"),
            ("é", "a text of 2 bytes"),
            ("0123456789012345678901234", "a text of 25 bytes"),
        ] {
            assert_eq!(shown_text(text), shown);
        }
        assert_eq!(shown_path("vms[0]", "sotre"), "vms[0].sotre");
        assert_eq!(shown_path("", "vmz"), "vmz");
        assert_eq!(shown_path("a", "/nix/store/x-y"), "a[\"/nix/store/x-y\"]");
        assert_eq!(shown_path("a", &"k".repeat(40)), "a[a key of 40 bytes]");
        assert_eq!(shown_path("a", "b c"), "a[a key of 3 bytes]");
        assert_eq!(shown_value(&json!({"value": "hunter2"})), "an object of 1");
        assert_eq!(shown_value(&json!([1, 2])), "a list of 2");
        assert_eq!(shown_value(&json!(7)), "7");
        assert_eq!(shown_value(&json!(u64::MAX)), "a number of 20 characters");
    }
}
