//! A plot of how things grow, as SVG: both axes logarithmic, so that what is proportional is a straight line.

use std::fmt::Write;

use crate::Row;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 400.0;
const MARGIN: f64 = 50.0;

/// Name, colour, and what of a row it shows.
type Curve = (&'static str, &'static str, fn(&Row) -> f64);

/// Draws seconds until all are Ready, seconds of CPU, and memory over the number of machines.
pub fn plot(rows: &[Row]) -> String {
    let curves: [Curve; 3] = [
        ("seconds until all are Ready", "#1b6ca8", |row| row.ready),
        ("seconds of CPU until then", "#c0392b", |row| row.cpu),
        ("MiB of memory", "#2e8b57", |row| row.memory),
    ];
    let values = rows.iter().flat_map(|row| curves.iter().map(move |(_, _, of)| of(row)));
    let top = values.fold(10.0, f64::max).log10().ceil();
    let ends =
        |pick: fn(f64, f64) -> f64| rows.iter().map(|row| (row.machines as f64).log10()).reduce(pick).unwrap_or(1.0);
    let (left, right) = (ends(f64::min), ends(f64::max));
    let x = |machines: f64| MARGIN + (machines.log10() - left) / (right - left).max(0.1) * (WIDTH - 2.0 * MARGIN);
    let y = |value: f64| HEIGHT - MARGIN - value.max(1.0).log10() / top * (HEIGHT - 2.0 * MARGIN);
    let mut svg = format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">"#
    );
    for row in rows {
        let at = x(row.machines as f64);
        let _ = write!(svg, r#"<text x="{at:.0}" y="{}" text-anchor="middle">{}</text>"#, HEIGHT - 30.0, row.machines);
    }
    for power in 0..=top as i32 {
        let at = y(10_f64.powi(power));
        let _ =
            write!(svg, r##"<line x1="{MARGIN}" x2="{}" y1="{at:.0}" y2="{at:.0}" stroke="#ddd"/>"##, WIDTH - MARGIN);
        let _ = write!(
            svg,
            r#"<text x="{}" y="{at:.0}" text-anchor="end">{}</text>"#,
            MARGIN - 6.0,
            10_i64.pow(power as u32)
        );
    }
    for (index, (name, colour, of)) in curves.iter().enumerate() {
        let points: Vec<_> =
            rows.iter().map(|row| format!("{:.0},{:.0}", x(row.machines as f64), y(of(row)))).collect();
        let _ =
            write!(svg, r#"<polyline points="{}" fill="none" stroke="{colour}" stroke-width="2"/>"#, points.join(" "));
        let _ = write!(
            svg,
            r#"<text x="{}" y="{}" fill="{colour}">{name}</text>"#,
            MARGIN + 10.0,
            MARGIN + 16.0 * index as f64
        );
    }
    svg.push_str("</svg>\n");
    svg
}
