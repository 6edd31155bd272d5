//! The operator's metrics page, read as Prometheus would.

use std::collections::BTreeMap;

use super::TheBox;

/// The samples of a page.
pub struct Metrics(Vec<Sample>);

struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

impl TheBox {
    /// The metrics of the first operator.
    #[track_caller]
    pub fn metrics(&self) -> Metrics {
        Metrics::read(&self.page("/metrics", "1"))
    }
}

impl TheBox {
    /// Memory of the first operator.
    pub fn resident_kib(&self) -> u64 {
        let told = self.script("operator", &["status"]);
        let words: Vec<_> = told.split_whitespace().collect();
        let pid = words.windows(2).find(|pair| pair[0] == "process").unwrap()[1].trim_end_matches(',');
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }
}

impl Metrics {
    /// Reads a page; a line that is no sample fails the test.
    pub fn read(page: &str) -> Self {
        let lines = page.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
        Self(lines.map(|line| sample(line).unwrap_or_else(|| panic!("no sample: {line}"))).collect())
    }

    /// The sum of the samples of this name with these labels.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.matching(name, labels).map(|sample| sample.value).sum()
    }

    /// The values of a label in the samples of this name.
    pub fn values(&self, name: &str, label: &str) -> Vec<String> {
        let mut values: Vec<_> =
            self.matching(name, &[]).filter_map(|sample| sample.labels.get(label).cloned()).collect();
        values.sort();
        values.dedup();
        values
    }

    fn matching<'a>(&'a self, name: &'a str, labels: &'a [(&str, &str)]) -> impl Iterator<Item = &'a Sample> {
        self.0.iter().filter(move |sample| {
            sample.name == name
                && labels.iter().all(|(label, value)| sample.labels.get(*label).map(String::as_str) == Some(*value))
        })
    }
}

/// `name{label="value",…} number`; our label values hold no quotes and no commas.
fn sample(line: &str) -> Option<Sample> {
    let (series, value) = line.rsplit_once(' ')?;
    let (name, labels) = match series.split_once('{') {
        Some((name, rest)) => (name, rest.strip_suffix('}')?),
        None => (series, ""),
    };
    let labels = labels.split(',').filter(|label| !label.is_empty()).map(|label| {
        let (key, value) = label.split_once('=')?;
        Some((key.to_owned(), value.trim_matches('"').to_owned()))
    });
    Some(Sample { name: name.to_owned(), labels: labels.collect::<Option<_>>()?, value: value.parse().ok()? })
}
