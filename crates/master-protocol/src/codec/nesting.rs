//! How deeply lists and objects are nested in a JSON text, found without parsing it.

/// Whether `json` opens more than `most` lists or objects within each other. What is no JSON may be judged either way.
pub(super) fn is_deeper_than(json: &[u8], most: usize) -> bool {
    let (mut depth, mut in_text, mut escaped) = (0_usize, false, false);
    for &byte in json {
        if in_text {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_text = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_text = true,
            b'{' | b'[' => {
                depth += 1;
                if depth > most {
                    return true;
                }
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_brackets_outside_of_texts_count() {
        assert!(!is_deeper_than(br#"[{"a": "[[[\"[[[", "b": []}, []]"#, 3));
        assert!(is_deeper_than(br#"[{"a": "\\", "b": [[]]}]"#, 3));
        assert!(!is_deeper_than(b"]]]][", 1));
    }
}
