//! The fields of spans, kept with them for whoever needs them by name.

use std::fmt::Debug;

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

/// The field that names a VM.
const VM: &str = "vm_id";

/// Fields with their values as text.
#[derive(Clone, Debug, Default)]
pub(super) struct SpanFields(pub(super) Vec<(&'static str, String)>);

impl SpanFields {
    /// The VM that the span is about.
    pub(super) fn vm(&self) -> Option<&str> {
        self.0.iter().find(|(name, _)| *name == VM).map(|(_, value)| value.as_str())
    }

    /// The fields of `event`.
    pub(super) fn of(event: &Event<'_>) -> Self {
        let mut fields = Self::default();
        event.record(&mut fields);
        fields
    }

    fn set(&mut self, name: &'static str, value: String) {
        match self.0.iter_mut().find(|(known, _)| *known == name) {
            Some((_, old)) => *old = value,
            None => self.0.push((name, value)),
        }
    }
}

impl Visit for SpanFields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.set(field.name(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.set(field.name(), value.to_owned());
    }
}

/// The VM that a line is about: the one that it names itself, else that of the innermost span around it that names one.
pub(super) fn vm_of<S: Subscriber + for<'a> LookupSpan<'a>>(
    event: &Event<'_>,
    context: &Context<'_, S>,
) -> Option<String> {
    let mut visitor = VmField(None);
    event.record(&mut visitor);
    visitor.0.or_else(|| {
        let mut spans = context.event_scope(event)?;
        spans.find_map(|span| span.extensions().get::<SpanFields>()?.vm().map(str::to_owned))
    })
}

struct VmField(Option<String>);

impl Visit for VmField {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == VM {
            self.0 = Some(format!("{value:?}"));
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        // The field may be there and empty: then the line is about no VM.
        if field.name() == VM && !value.is_empty() {
            self.0 = Some(value.to_owned());
        }
    }
}

/// Keeps every span's fields with it.
pub(super) struct KeepFields;

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for KeepFields {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if let Some(span) = context.span(id) {
            let mut fields = SpanFields::default();
            attributes.record(&mut fields);
            span.extensions_mut().insert(fields);
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(fields) = span.extensions_mut().get_mut::<SpanFields>()
        {
            values.record(fields);
        }
    }
}
