//! The order in which people expect names: `web-2` before `web-10`.

use std::cmp::Ordering;

/// Compares two names so that digits next to each other count as one number. Equal only for equal names.
pub(super) fn natural_order(one: &str, other: &str) -> Ordering {
    let (mut left, mut right) = (one, other);
    while !left.is_empty() && !right.is_empty() {
        let (left_part, left_rest) = split_part(left);
        let (right_part, right_rest) = split_part(right);
        let ordering = match (number(left_part), number(right_part)) {
            // Without leading zeros, the longer number is the larger one.
            (Some(left), Some(right)) => left.len().cmp(&right.len()).then_with(|| left.cmp(right)),
            (Some(_), None) | (None, Some(_)) | (None, None) => left_part.cmp(right_part),
        };
        if ordering != Ordering::Equal {
            return ordering;
        }
        (left, right) = (left_rest, right_rest);
    }
    left.len().cmp(&right.len()).then_with(|| one.cmp(other))
}

/// The digits of a number without its leading zeros.
fn number(part: &str) -> Option<&str> {
    part.starts_with(|first: char| first.is_ascii_digit()).then(|| part.trim_start_matches('0'))
}

/// The first part of `text`, which is all digits or has none, and the rest.
fn split_part(text: &str) -> (&str, &str) {
    let is_number = text.starts_with(|first: char| first.is_ascii_digit());
    let end = text.find(|character: char| character.is_ascii_digit() != is_number).unwrap_or(text.len());
    text.split_at(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_names_count_as_numbers() {
        let mut names = [
            "web-10",
            "web-2",
            "web",
            "10",
            "9",
            "db-1-a",
            "web-02",
            "db-1",
            "web-2-a",
            "99999999999999999999999",
        ];
        names.sort_by(|one, other| natural_order(one, other));
        assert_eq!(
            names,
            [
                "9",
                "10",
                "99999999999999999999999",
                "db-1",
                "db-1-a",
                "web",
                "web-02",
                "web-2",
                "web-2-a",
                "web-10"
            ]
        );
    }

    #[test]
    fn it_is_an_order() {
        let names = ["", "0", "00", "01", "1", "1-", "-1", "a", "a0", "a00", "a1b", "a01b", "b"];
        for one in names {
            for other in names {
                let ordering = natural_order(one, other);
                assert_eq!(ordering.reverse(), natural_order(other, one), "{one:?} and {other:?}");
                assert_eq!(ordering == Ordering::Equal, one == other);
                for third in names {
                    if ordering.is_le() && natural_order(other, third).is_le() {
                        assert!(natural_order(one, third).is_le(), "{one:?}, {other:?}, {third:?}");
                    }
                }
            }
        }
    }
}
