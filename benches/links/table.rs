//! What was measured, by what and of whom, and how it is printed.

/// One quantity: a row for each name, with a value a round.
#[derive(Debug)]
pub(crate) struct Table {
    what: String,
    rows: Vec<(&'static str, Vec<f64>)>,
}

impl Table {
    pub(crate) fn of(what: impl Into<String>) -> Self {
        Self { what: what.into(), rows: Vec::new() }
    }

    pub(crate) fn add(&mut self, name: &'static str, value: f64) {
        match self.rows.iter_mut().find(|row| row.0 == name) {
            Some(row) => row.1.push(value),
            None => self.rows.push((name, vec![value])),
        }
    }

    /// Prints the lowest, the median and the highest of each, and the median of the rounds' own ratios to `base`:
    /// each is of measurements that were made one after the other.
    pub(crate) fn print(&self, base: &str) {
        println!("\n{:<34}{:>10}{:>10}{:>10}{:>8}", self.what, "min", "median", "max", "ratio");
        let bases = self.rows.iter().find(|row| row.0 == base).map(|row| &row.1);
        for (name, values) in &self.rows {
            let ratios =
                bases.map(|bases| values.iter().zip(bases).map(|(value, base)| value / base).collect());
            let mut sorted = values.clone();
            sorted.sort_unstable_by(f64::total_cmp);
            let [low, high] = [sorted.first(), sorted.last()].map(|value| number(value.copied()));
            let (middle, ratio) = (number(median(sorted)), number(ratios.and_then(median)));
            println!("  {name:<32}{low:>10}{middle:>10}{high:>10}{ratio:>8}");
        }
    }
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

/// Three digits at least, and no more than matter.
fn number(value: Option<f64>) -> String {
    match value {
        None => "-".to_owned(),
        Some(value) if value >= 100.0 => format!("{value:.0}"),
        Some(value) if value >= 10.0 => format!("{value:.1}"),
        Some(value) if value >= 0.1 => format!("{value:.2}"),
        Some(value) => format!("{value:.4}"),
    }
}
