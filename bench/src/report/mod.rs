//! What results look like: tables, plots, a page, and a comparison of two runs.

pub mod compare;
pub mod html;
pub mod svg;
pub mod table;

use crate::host::machine::Machine;
use crate::results::Results;
use crate::stats;

/// `1234567` as `1,234,567`.
pub fn thousands(value: f64) -> String {
    let digits = format!("{value:.0}");
    let (sign, digits) = digits.strip_prefix('-').map_or(("", digits.as_str()), |rest| ("-", rest));
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    format!("{sign}{text}")
}

/// A figure with as many digits as are worth reading.
pub fn figure(value: f64) -> String {
    match value.abs() {
        v if v >= 1000.0 => thousands(value),
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// `median (low–high)` of some rounds; a dash of none.
pub fn with_spread(values: &[f64]) -> String {
    match stats::spread(values) {
        None => "–".into(),
        Some((_, median, _)) if values.len() == 1 => figure(median),
        Some((low, median, high)) => {
            format!("{} ({}–{})", figure(median), figure(low), figure(high))
        }
    }
}

/// Bytes as megabytes.
pub fn megabytes(bytes: f64) -> String {
    format!("{:.1}", bytes / 1e6)
}

/// The machine and the method, in a few lines.
pub fn conditions(results: &Results) -> Vec<String> {
    let Results { machine, settings, .. } = results;
    let place = if machine.virtual_machine { "virtual machine" } else { "bare metal" };
    let governor =
        machine.governor.as_ref().map_or(String::new(), |name| format!(", governor {name}"));
    vec![
        format!(
            "{}, {} CPUs, {} GB, {place}{governor}; {}, Linux {}",
            machine.cpu,
            machine.cpus,
            (machine.memory as f64 / 1e9).round(),
            machine.system,
            machine.kernel
        ),
        format!(
            "emberd at commit {}; {} rounds, each subject in turn, a fresh server each time; {} s \
             of warm-up, {} s measured; servers on CPU {}, load on CPU {}",
            results.commit,
            settings.rounds,
            settings.warmup_s,
            settings.window_s,
            list(&settings.server_cpus),
            list(&settings.load_cpus)
        ),
        format!("CPU time by {}; {}", settings.cpu_source, accounting(machine)),
    ]
}

fn accounting(machine: &Machine) -> String {
    let source = &machine.accounting.source;
    let source = if source.is_empty() { "assumed" } else { source.as_str() };
    if machine.accounting.precise {
        return format!("total, user and system exact ({source})");
    }
    format!(
        "the total is exact, its user part sampled by ticks at {} Hz ({source}), so it is pooled \
         over the rounds and given with its standard error",
        machine.accounting.hz
    )
}

fn list(cpus: &[usize]) -> String {
    let names: Vec<String> = cpus.iter().map(usize::to_string).collect();
    if names.is_empty() { "any".into() } else { names.join(",") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_read_well() {
        assert_eq!(thousands(1_234_567.0), "1,234,567");
        assert_eq!(thousands(-123.0), "-123");
        assert_eq!([0.123, 12.34, 123.4, 1234.5].map(figure), ["0.12", "12.3", "123", "1,234"]);
        assert_eq!(with_spread(&[1.0, 3.0, 2.0]), "2.00 (1.00–3.00)");
        assert_eq!(with_spread(&[]), "–");
    }
}
