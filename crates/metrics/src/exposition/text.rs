//! The two text formats that Prometheus reads. They differ in what stands above a family's series, in two kinds, and at the
//! end.
//!
//! | | Prometheus 0.0.4 | OpenMetrics 1.0 |
//! |---|---|---|
//! | metadata is of | the series' name | the name without `_total` and `_info` |
//! | an info is a | gauge | info |
//! | unit, end | not told | `# UNIT`, `# EOF` |

use std::fmt::{Display, Write};

use vm_model::DurationCounts;

use super::families::{Family, Kind, Unit, Value};

/// A text format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Prometheus' own, which the node exporter's textfile collector and `promtool` read, too.
    Prometheus,
    /// OpenMetrics.
    OpenMetrics,
}

impl Format {
    /// Its media type, for the header `content-type`.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    /// What a client is answered whose header `accept` is this: OpenMetrics, unless it names plain text and not that.
    pub fn accepted(accept: &str) -> Self {
        if accept.contains("text/plain") && !accept.contains("application/openmetrics-text") {
            Self::Prometheus
        } else {
            Self::OpenMetrics
        }
    }
}

/// Writes series.
pub(super) struct TextWriter {
    format: Format,
    text: String,
}

impl TextWriter {
    pub(super) fn new(format: Format) -> Self {
        Self { format, text: String::new() }
    }

    /// Says what `family` is. Its series come next.
    pub(super) fn begin<S>(&mut self, family: &Family<S>) {
        let name = match self.format {
            Format::Prometheus => family.full_name(),
            Format::OpenMetrics => family.unit_name(),
        };
        let kind = match (family.kind, self.format) {
            (Kind::Gauge, _) | (Kind::Info, Format::Prometheus) => "gauge",
            (Kind::Counter, _) => "counter",
            (Kind::Histogram, _) => "histogram",
            (Kind::Info, Format::OpenMetrics) => "info",
        };
        self.line(format_args!("# HELP {name} {}", family.help));
        self.line(format_args!("# TYPE {name} {kind}"));
        if let (Format::OpenMetrics, Some(unit)) = (self.format, family.unit.map(Unit::name)) {
            self.line(format_args!("# UNIT {name} {unit}"));
        }
    }

    /// Writes what `family` tells of `subject`, which the label `name` names.
    pub(super) fn subject<S>(&mut self, family: &Family<S>, subject: &S, name: Option<(&str, &str)>) {
        let full_name = family.full_name();
        for (labels, value) in (family.read)(subject) {
            let mut written = String::new();
            name.into_iter().for_each(|(label, value)| add_label(&mut written, label, value));
            labels.iter().for_each(|(label, value)| add_label(&mut written, label, value));
            match value {
                Value::Whole(value) => self.series(&full_name, &written, value),
                Value::Real(value) => self.series(&full_name, &written, value),
                Value::Durations(counts) => self.histogram(&full_name, &written, &counts),
            }
        }
    }

    fn histogram(&mut self, name: &str, labels: &str, counts: &DurationCounts) {
        let bucket = format!("{name}_bucket");
        let count = counts.count();
        let bounds = counts.up_to().map(|(bound, count)| (format!("{:?}", bound.as_secs_f64()), count));
        for (bound, count) in bounds.chain([("+Inf".to_owned(), count)]) {
            let mut labels = labels.to_owned();
            add_label(&mut labels, "le", &bound);
            self.series(&bucket, &labels, count);
        }
        self.series(&format!("{name}_sum"), labels, counts.sum.as_secs_f64());
        self.series(&format!("{name}_count"), labels, count);
    }

    fn series(&mut self, name: &str, labels: &str, value: impl Display) {
        // A set of labels that is empty is written as none.
        if labels.is_empty() {
            self.line(format_args!("{name} {value}"));
        } else {
            self.line(format_args!("{name}{{{labels}}} {value}"));
        }
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        // Texts take everything.
        let _ = self.text.write_fmt(line);
        self.text.push('\n');
    }

    /// The whole text.
    pub(super) fn finish(mut self) -> String {
        if self.format == Format::OpenMetrics {
            self.text.push_str("# EOF\n");
        }
        self.text
    }
}

/// Adds a label. What would end its value is escaped.
fn add_label(labels: &mut String, name: &str, value: &str) {
    if !labels.is_empty() {
        labels.push(',');
    }
    labels.push_str(name);
    labels.push_str("=\"");
    for character in value.chars() {
        match character {
            '\\' => labels.push_str("\\\\"),
            '"' => labels.push_str("\\\""),
            '\n' => labels.push_str("\\n"),
            other => labels.push(other),
        }
    }
    labels.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_get_the_format_that_they_ask_for() {
        for (accept, format) in [
            ("", Format::OpenMetrics),
            ("*/*", Format::OpenMetrics),
            ("text/plain", Format::Prometheus),
            ("text/plain;version=0.0.4;q=0.5,*/*;q=0.1", Format::Prometheus),
            (
                "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5",
                Format::OpenMetrics,
            ),
        ] {
            assert_eq!(Format::accepted(accept), format, "{accept:?}");
        }
    }

    #[test]
    fn no_value_ends_its_label() {
        let mut labels = String::new();
        add_label(&mut labels, "a", "x\\\"\n");
        add_label(&mut labels, "b", "");
        assert_eq!(labels, r#"a="x\\\"\n",b="""#);
    }
}
