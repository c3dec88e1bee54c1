//! As much of a JSON Schema validator as the schemas here need. A keyword that it does not know fails the test.

use serde_json::{Map, Value};

/// Says where and why `value` does not match `schema`, whose root is `root`; nothing where it does.
pub(super) fn problems(root: &Value, value: &Value) -> Vec<String> {
    let mut problems = Vec::new();
    Validator { root }.check(root, value, "$", &mut problems);
    problems
}

struct Validator<'a> {
    root: &'a Value,
}

impl Validator<'_> {
    fn check(&self, schema: &Value, value: &Value, at: &str, problems: &mut Vec<String>) {
        let keywords = schema.as_object().expect("schemas are objects");
        for (keyword, rule) in keywords {
            let holds = match keyword.as_str() {
                "$schema" | "title" | "description" | "default" | "$defs" | "required" => true,
                "properties" | "additionalProperties" | "propertyNames" | "items" => true,
                "$ref" => {
                    let pointer = rule.as_str().and_then(|text| text.strip_prefix('#')).expect("local");
                    let target = self.root.pointer(pointer).expect("it is defined");
                    self.matches(target, value, at)
                }
                "anyOf" => list(rule).iter().any(|choice| self.matches(choice, value, at)),
                "enum" => list(rule).contains(value),
                "const" => rule == value,
                "type" => is_type(value, rule.as_str().expect("a name")),
                "minimum" => value.as_f64().is_none_or(|number| number >= rule.as_f64().expect("a number")),
                "maximum" => value.as_f64().is_none_or(|number| number <= rule.as_f64().expect("a number")),
                "multipleOf" => {
                    value.as_u64().is_none_or(|number| number.is_multiple_of(rule.as_u64().expect("whole")))
                }
                "minLength" => length(value, |text| text.chars().count()) >= most(rule),
                "maxLength" => value.as_str().is_none_or(|text| text.chars().count() <= most(rule)),
                "minItems" => value.as_array().is_none_or(|items| items.len() >= most(rule)),
                "maxItems" => value.as_array().is_none_or(|items| items.len() <= most(rule)),
                "pattern" => {
                    value.as_str().is_none_or(|text| matches_pattern(rule.as_str().expect("text"), text))
                }
                unknown => panic!("the validator does not know {unknown}"),
            };
            if !holds {
                problems.push(format!("{at}: {value} is against {keyword} {rule}"));
            }
        }
        if let Some(members) = value.as_object() {
            self.members(keywords, members, at, problems);
        }
        if let (Some(items), Some(schema)) = (value.as_array(), keywords.get("items")) {
            for (index, item) in items.iter().enumerate() {
                self.check(schema, item, &format!("{at}[{index}]"), problems);
            }
        }
    }

    fn members(
        &self,
        keywords: &Map<String, Value>,
        members: &Map<String, Value>,
        at: &str,
        problems: &mut Vec<String>,
    ) {
        for name in keywords.get("required").map_or(&[][..], |names| list(names)) {
            if !members.contains_key(name.as_str().expect("a name")) {
                problems.push(format!("{at}: {name} is missing"));
            }
        }
        for (name, value) in members {
            let at = format!("{at}.{name}");
            if let Some(names) = keywords.get("propertyNames") {
                self.check(names, &Value::String(name.clone()), &at, problems);
            }
            let known = keywords.get("properties").and_then(|properties| properties.get(name));
            match (known, keywords.get("additionalProperties")) {
                (Some(schema), _) => self.check(schema, value, &at, problems),
                (None, Some(Value::Bool(false))) => problems.push(format!("{at}: unknown")),
                (None, Some(schema)) => self.check(schema, value, &at, problems),
                (None, None) => {}
            }
        }
    }

    fn matches(&self, schema: &Value, value: &Value, at: &str) -> bool {
        let mut problems = Vec::new();
        self.check(schema, value, at, &mut problems);
        problems.is_empty()
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().expect("a list")
}

fn most(rule: &Value) -> usize {
    usize::try_from(rule.as_u64().expect("a number")).expect("small")
}

fn length(value: &Value, count: impl Fn(&str) -> usize) -> usize {
    value.as_str().map_or(usize::MAX, count)
}

fn is_type(value: &Value, name: &str) -> bool {
    match name {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("there is no type {other}"),
    }
}

/// The patterns of the schemas, each by hand: a library for regular expressions would be a large dependency of a test.
fn matches_pattern(pattern: &str, text: &str) -> bool {
    let is_name = |most: usize| {
        let first = text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
        let rest = text.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c));
        first && rest && text.len() <= most
    };
    match pattern {
        "^/" => text.starts_with('/'),
        "^[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}$" => is_name(63),
        "^[A-Za-z0-9_][A-Za-z0-9_.-]{0,14}$" => is_name(15),
        "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$" => vm_model::VmId::parse(text).is_ok(),
        "^[a-z0-9]([a-z0-9-]*[a-z0-9])?$" => vm_model::NetworkName::parse(text).is_ok(),
        "^[0-9]{1,3}(\\.[0-9]{1,3}){3}$" => text.parse::<std::net::Ipv4Addr>().is_ok(),
        "^[0-9A-Fa-f][02468ACEace](:[0-9A-Fa-f]{2}){5}$" => {
            text.parse::<vm_model::MacAddress>().is_ok_and(vm_model::MacAddress::is_unicast)
        }
        "^[0-9.]+/[0-9]{1,2}$" => {
            text.split_once('/').is_some_and(|(_, length)| length.parse::<u8>().is_ok())
        }
        "^[0-9.]+([-/][0-9.]+)?$" => text.parse::<ipam::AddressRange>().is_ok(),
        "^.*:[0-9]{1,5}$" => text.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok()),
        credential if credential.starts_with("^[!-.0-9;<>-~]{1,") => {
            vm_model::CredentialName::parse(text).is_ok()
        }
        unknown => panic!("the validator does not know the pattern {unknown}"),
    }
}
