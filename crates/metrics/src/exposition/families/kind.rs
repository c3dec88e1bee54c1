//! What a family of series is made of.

use vm_model::DurationCounts;

/// What a family's figures are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A figure that goes up and down.
    Gauge,
    /// A total that grows. `_total` is added to its name.
    Counter,
    /// A fact in labels. `_info` is added to its name.
    Info,
    /// How often something took how long, by fixed bounds. `_bucket`, `_sum` and `_count` are added to its name.
    Histogram,
}

/// What a family's figures are measured in, which is added to its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Bytes.
    Bytes,
    /// Seconds.
    Seconds,
}

impl Unit {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bytes => "bytes",
            Self::Seconds => "seconds",
        }
    }
}

/// One figure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value {
    /// A whole number.
    Whole(u64),
    /// Any number.
    Real(f64),
    /// What a histogram has counted.
    Durations(DurationCounts),
}

impl From<u64> for Value {
    fn from(value: u64) -> Self {
        Self::Whole(value)
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Self::Real(value)
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Whole(u64::from(value))
    }
}

impl From<DurationCounts> for Value {
    fn from(value: DurationCounts) -> Self {
        Self::Durations(value)
    }
}

/// A figure, with what tells it apart from others of its family and subject.
pub type Sample = (Vec<(&'static str, String)>, Value);

/// A family of series about subjects `S`.
#[derive(Debug)]
pub struct Family<S> {
    /// Its name, without prefix, unit and what its kind adds.
    pub name: &'static str,
    /// What it tells.
    pub help: &'static str,
    /// What it is measured in.
    pub unit: Option<Unit>,
    /// What its figures are.
    pub kind: Kind,
    /// What it tells of a subject.
    pub read: fn(&S) -> Vec<Sample>,
}

impl<S> Family<S> {
    pub(super) const fn new(
        name: &'static str,
        kind: Kind,
        unit: Option<Unit>,
        help: &'static str,
        read: fn(&S) -> Vec<Sample>,
    ) -> Self {
        Self { name, help, unit, kind, read }
    }

    /// Its name with prefix and unit, which is that of its metadata in OpenMetrics.
    pub fn unit_name(&self) -> String {
        match self.unit {
            None => format!("procurator_{}", self.name),
            Some(unit) => format!("procurator_{}_{}", self.name, unit.name()),
        }
    }

    /// The name of its series, as a scraper sees it; of a histogram, what its three kinds of series begin with.
    pub fn full_name(&self) -> String {
        let kind = match self.kind {
            Kind::Gauge | Kind::Histogram => "",
            Kind::Counter => "_total",
            Kind::Info => "_info",
        };
        format!("{}{kind}", self.unit_name())
    }
}

pub(super) const BYTES: Option<Unit> = Some(Unit::Bytes);
pub(super) const SECONDS: Option<Unit> = Some(Unit::Seconds);
