//! What a process uses, as Linux tells it.

/// What a process has used.
pub struct Usage {
    /// Seconds of CPU since its start.
    pub cpu: f64,
    /// MiB in memory now.
    pub memory: f64,
}

impl Usage {
    /// Of a process, up to now.
    pub fn of(process: u32) -> Self {
        let read = |file: &str| std::fs::read_to_string(format!("/proc/{process}/{file}")).unwrap();
        let (stat, status) = (read("stat"), read("status"));
        // After the name, which stands in parentheses: the 12th and 13th field, in hundredths of a second.
        let fields: Vec<_> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        let ticks = |index: usize| fields[index].parse::<f64>().unwrap();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        let kibibytes: f64 = resident.trim().trim_end_matches(" kB").parse().unwrap();
        Self { cpu: (ticks(11) + ticks(12)) / 100.0, memory: kibibytes / 1024.0 }
    }
}
