//! What was measured, and how it is printed.

use std::time::Duration;

/// How long things took.
#[derive(Clone, Debug, Default)]
pub(crate) struct Latencies(Vec<Duration>);

impl Latencies {
    pub(crate) fn push(&mut self, latency: Duration) {
        self.0.push(latency);
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// With so many more, each of which took that long at least.
    pub(crate) fn with(&self, more: u64, least: Duration) -> Self {
        let more = usize::try_from(more).expect("few");
        Self(self.0.iter().copied().chain(std::iter::repeat_n(least, more)).collect())
    }

    /// The value that so many of a thousand do not exceed, in microseconds; none if nothing was measured.
    pub(crate) fn per_mille(&self, rank: usize) -> Option<f64> {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let last = sorted.len().checked_sub(1)?;
        sorted.get(last * rank / 1000).map(|latency| latency.as_secs_f64() * 1e6)
    }
}

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Epmd,
    Ours,
}

impl Side {
    pub(crate) const BOTH: [Self; 2] = [Self::Epmd, Self::Ours];
}

/// Whether both did the same, so that a ratio means something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    Same,
    Other,
}

/// One quantity, measured once a round for each of the two.
#[derive(Debug)]
struct Row {
    what: String,
    epmd: Vec<f64>,
    ours: Vec<f64>,
    work: Work,
}

/// Quantities in the order in which they came up.
#[derive(Debug, Default)]
pub(crate) struct Table(Vec<Row>);

impl Table {
    pub(crate) fn add(&mut self, what: &str, side: Side, value: f64) {
        self.row(what, Work::Same, side, value);
    }

    /// What is no measure of one against the other, since they had different things to do.
    pub(crate) fn add_apart(&mut self, what: &str, side: Side, value: f64) {
        self.row(what, Work::Other, side, value);
    }

    fn row(&mut self, what: &str, work: Work, side: Side, value: f64) {
        let index = self.0.iter().position(|row| row.what == what).unwrap_or_else(|| {
            self.0.push(Row { what: what.to_owned(), epmd: Vec::new(), ours: Vec::new(), work });
            self.0.len() - 1
        });
        let row = self.0.get_mut(index).expect("it is there");
        match side {
            Side::Epmd => row.epmd.push(value),
            Side::Ours => row.ours.push(value),
        }
    }

    /// Prints the lowest, the median and the highest of each, under the names of the two.
    pub(crate) fn print(&self, epmd: &str, ours: &str) {
        let width = self.0.iter().map(|row| row.what.len()).max().unwrap_or(0);
        println!("{:width$}  {epmd:>28}  {ours:>28}  {:>10}", "", format!("{ours}/{epmd}"));
        let columns = format!("{:>8}  {:>8}  {:>8}", "min", "median", "max");
        println!("{:width$}  {columns}  {columns}", "");
        for row in &self.0 {
            let (epmd, ours) = (spread(&row.epmd), spread(&row.ours));
            println!("{:width$}  {epmd}  {ours}  {:>10}", row.what, row.ratio());
        }
    }
}

impl Row {
    /// The median of the rounds' own ratios, each between measurements made one after the other.
    fn ratio(&self) -> String {
        if self.work == Work::Other {
            return "-".to_owned();
        }
        let ratios = self.epmd.iter().zip(&self.ours).map(|(epmd, ours)| ours / epmd).collect();
        median(ratios).map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}"))
    }
}

fn spread(values: &[f64]) -> String {
    let lowest = values.iter().copied().reduce(f64::min);
    let highest = values.iter().copied().reduce(f64::max);
    let column = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), number);
    format!("{:>8}  {:>8}  {:>8}", column(lowest), column(median(values.to_vec())), column(highest))
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

/// Three digits at least, and no more than matter.
fn number(value: f64) -> String {
    match value {
        value if value >= 100.0 => format!("{value:.0}"),
        value if value >= 10.0 => format!("{value:.1}"),
        value => format!("{value:.2}"),
    }
}
