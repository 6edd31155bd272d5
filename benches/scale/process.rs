//! What this process uses, as Linux tells it.

/// What this process has used.
pub struct Usage {
    /// Seconds of CPU since its start.
    pub cpu: f64,
    /// MiB in memory now.
    pub memory: f64,
}

impl Usage {
    /// Up to now.
    pub fn now() -> Self {
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
        // After the name, which stands in parentheses: the 12th and 13th field, in hundredths of a second.
        let fields: Vec<_> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        let ticks = |index: usize| fields[index].parse::<f64>().unwrap();
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        let kibibytes: f64 = resident.trim().trim_end_matches(" kB").parse().unwrap();
        Self { cpu: (ticks(11) + ticks(12)) / 100.0, memory: kibibytes / 1024.0 }
    }
}
