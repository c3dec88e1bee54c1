//! What many runs of one measurement amount to. Pure.

use serde::Serialize;

/// The spread of one figure over its runs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Spread {
    pub(super) runs: usize,
    pub(super) min: f64,
    pub(super) median: f64,
    pub(super) p90: f64,
    pub(super) p99: f64,
}

impl Spread {
    /// The spread of `values`, which are not empty. Percentiles are values that occurred (nearest rank).
    pub(super) fn of(values: &[f64]) -> Self {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        Self {
            runs: sorted.len(),
            min: sorted[0],
            median: percentile(&sorted, 50),
            p90: percentile(&sorted, 90),
            p99: percentile(&sorted, 99),
        }
    }
}

/// The smallest value that at least `percent` of `sorted` do not exceed.
fn percentile(sorted: &[f64], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted[rank.saturating_sub(1)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_occurred() {
        let values: Vec<f64> = (1..=30).rev().map(f64::from).collect();
        let spread = Spread::of(&values);
        assert_eq!(
            (spread.runs, spread.min, spread.median, spread.p90, spread.p99),
            (30, 1.0, 15.0, 27.0, 30.0)
        );
    }

    #[test]
    fn one_run_is_all_of_its_percentiles() {
        let spread = Spread::of(&[7.0]);
        assert_eq!((spread.min, spread.median, spread.p99), (7.0, 7.0, 7.0));
    }
}
