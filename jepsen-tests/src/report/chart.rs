//! The run over time, as SVG: one axis of time for throughput, latency and the faults, each fault in the lane
//! of its kind, and shaded through the charts.

use std::fmt::Write;

use super::html::escape;
use super::series::{Part, Series};
use crate::history::Nanos;

const WIDTH: f64 = 1000.0;
const LEFT: f64 = 130.0;
const RIGHT: f64 = 14.0;
const HEIGHT: f64 = 190.0;
const TOP: f64 = 12.0;
const LANE: f64 = 17.0;

/// A fault that was in place.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Band {
    pub(super) name: String,
    pub(super) what: String,
    pub(super) from: Nanos,
    pub(super) to: Nanos,
}

/// Places on the axis of time.
struct Time {
    seconds: f64,
}

impl Time {
    fn x(&self, seconds: f64) -> f64 {
        LEFT + (WIDTH - LEFT - RIGHT) * (seconds / self.seconds).clamp(0.0, 1.0)
    }

    /// Round numbers of seconds, about eight.
    fn ticks(&self) -> Vec<f64> {
        let step = [1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0]
            .into_iter()
            .find(|step| self.seconds / step <= 10.0)
            .unwrap_or(3600.0);
        let count = (self.seconds / step) as u32;
        (0..=count).map(|number| f64::from(number) * step).collect()
    }
}

fn seconds(nanos: Nanos) -> f64 {
    nanos as f64 / 1e9
}

fn clock(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    if whole < 120 {
        format!("{whole} s")
    } else {
        format!("{}:{:02}", whole / 60, whole % 60)
    }
}

/// Lanes with the faults, one for each name; nothing when there were none.
pub(super) fn lanes(series: &Series, bands: &[Band]) -> String {
    let mut names: Vec<&str> = Vec::new();
    for band in bands {
        if !names.contains(&band.name.as_str()) {
            names.push(&band.name);
        }
    }
    if names.is_empty() {
        return String::new();
    }
    names.sort_unstable();
    let time = Time {
        seconds: series.seconds(),
    };
    let height = TOP + LANE * names.len() as f64 + 22.0;
    let mut out = begin("Faults", "when each fault was in place", height);
    axis_of_time(&mut out, &time, height - 22.0);
    for (lane, name) in names.iter().enumerate() {
        let y = TOP + LANE * lane as f64;
        // Writing to a string cannot fail.
        let _ = write!(
            out,
            "<text x=\"{}\" y=\"{}\" class=\"label\">{}</text>",
            LEFT - 8.0,
            y + 12.0,
            escape(name)
        );
        for band in bands.iter().filter(|band| band.name == *name) {
            let (from, to) = (time.x(seconds(band.from)), time.x(seconds(band.to)));
            let _ = write!(
                out,
                "<rect x=\"{from:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{}\" rx=\"2\" class=\"fault\"><title>{}: \
                 {}, {:.1} to {:.1} s</title></rect>",
                y + 2.0,
                (to - from).max(1.5),
                LANE - 4.0,
                escape(name),
                escape(&band.what),
                seconds(band.from),
                seconds(band.to)
            );
        }
    }
    out.push_str("</svg>\n");
    out
}

/// Operations a second, by outcome.
pub(super) fn throughput(series: &Series, bands: &[Band]) -> String {
    let per_second = |count: u64| count as f64 / seconds(series.part_len);
    let top = series
        .parts
        .iter()
        .map(|part| per_second(part.ok.max(part.failed).max(part.unknown)))
        .fold(1.0, f64::max);
    let top = round_up(top);
    let mut out = begin(
        "Throughput",
        "operations that ended, per second, by outcome",
        HEIGHT,
    );
    let time = frame(&mut out, series, bands);
    let y = |value: f64| TOP + (HEIGHT - TOP - 22.0) * (1.0 - value / top);
    for share in [0.0, 0.5, 1.0] {
        grid(&mut out, y(top * share), &format!("{:.0}/s", top * share));
    }
    let mut draw = |class: &str, count: fn(&Part) -> u64| {
        // One that never is above zero would only hide the axis.
        if class == "ok" || series.parts.iter().any(|part| count(part) > 0) {
            let points = series
                .parts
                .iter()
                .map(|part| Some(y(per_second(count(part)))));
            line(&mut out, &time, series, class, points);
        }
    };
    draw("unknown", |part| part.unknown);
    draw("failed", |part| part.failed);
    draw("ok", |part| part.ok);
    out.push_str("</svg>\n");
    out
}

/// How long answered operations took, on a logarithmic scale.
pub(super) fn latency(series: &Series, bands: &[Band]) -> String {
    const FROM: f64 = 0.1;
    let longest = series
        .parts
        .iter()
        .filter_map(|part| part.latency.map(|[_, _, longest]| longest))
        .fold(10.0, f64::max);
    let decades = (longest / FROM).log10().ceil();
    let mut out = begin(
        "Latency",
        "of answered operations: median, 99th percentile and longest, logarithmic",
        HEIGHT,
    );
    let time = frame(&mut out, series, bands);
    let y = |millis: f64| {
        let share = (millis.max(FROM) / FROM).log10() / decades;
        TOP + (HEIGHT - TOP - 22.0) * (1.0 - share.min(1.0))
    };
    for decade in 0..=decades as i32 {
        let millis = FROM * 10_f64.powi(decade);
        let text = if millis >= 1000.0 {
            format!("{:.0} s", millis / 1000.0)
        } else {
            format!("{millis} ms")
        };
        grid(&mut out, y(millis), &text);
    }
    for (index, class) in ["median", "p99", "longest"].into_iter().enumerate().rev() {
        let points = series
            .parts
            .iter()
            .map(|part| part.latency.map(|latency| y(latency[index])));
        line(&mut out, &time, series, class, points);
    }
    out.push_str("</svg>\n");
    out
}

fn begin(title: &str, about: &str, height: f64) -> String {
    format!(
        "<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{title}: {about}\"><title>{title}: \
         {about}</title>"
    )
}

/// Shades the faults and draws the axis of time.
fn frame(out: &mut String, series: &Series, bands: &[Band]) -> Time {
    let time = Time {
        seconds: series.seconds(),
    };
    for band in bands {
        let (from, to) = (time.x(seconds(band.from)), time.x(seconds(band.to)));
        let _ = write!(
            out,
            "<rect x=\"{from:.1}\" y=\"{TOP}\" width=\"{:.1}\" height=\"{}\" class=\"shade\"><title>{}</title></rect>",
            (to - from).max(1.0),
            HEIGHT - TOP - 22.0,
            escape(&band.name)
        );
    }
    axis_of_time(out, &time, HEIGHT - 22.0);
    time
}

fn axis_of_time(out: &mut String, time: &Time, y: f64) {
    for tick in time.ticks() {
        let x = time.x(tick);
        let _ = write!(
            out,
            "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{TOP}\" y2=\"{y}\" class=\"grid\"/><text x=\"{x:.1}\" y=\"{}\" \
             class=\"tick\">{}</text>",
            y + 15.0,
            clock(tick)
        );
    }
}

fn grid(out: &mut String, y: f64, text: &str) {
    let _ = write!(
        out,
        "<line x1=\"{LEFT}\" x2=\"{}\" y1=\"{y:.1}\" y2=\"{y:.1}\" class=\"grid\"/><text x=\"{}\" y=\"{:.1}\" \
         class=\"label\">{text}</text>",
        WIDTH - RIGHT,
        LEFT - 8.0,
        y + 4.0
    );
}

/// A line that is broken where there is no point.
fn line(
    out: &mut String,
    time: &Time,
    series: &Series,
    class: &str,
    points: impl Iterator<Item = Option<f64>>,
) {
    let mut path = String::new();
    let mut pen_is_down = false;
    for (index, point) in points.enumerate() {
        let Some(y) = point else {
            pen_is_down = false;
            continue;
        };
        let x = time.x(seconds(series.part_len) * (index as f64 + 0.5));
        let command = if pen_is_down { 'L' } else { 'M' };
        // A point alone is drawn, too.
        let dot = if pen_is_down { "" } else { "h.01" };
        let _ = write!(path, "{command}{x:.1} {y:.1}{dot}");
        pen_is_down = true;
    }
    let _ = write!(out, "<path d=\"{path}\" class=\"line {class}\"/>");
}

/// The next number with one or two digits and zeros.
pub(super) fn round_up(value: f64) -> f64 {
    let unit = 10_f64.powf(value.log10().floor());
    let steps = [1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 7.5, 10.0];
    let fits = steps.into_iter().find(|step| step * unit >= value);
    fits.unwrap_or(10.0) * unit
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_end_at_round_numbers() {
        for (value, top) in [(1.0, 1.0), (3.2, 4.0), (17.0, 20.0), (501.0, 750.0)] {
            assert!((round_up(value) - top).abs() < 1e-9, "{value}");
        }
        for seconds in [3.0, 60.0, 700.0, 3600.0, 90_000.0] {
            let ticks = Time { seconds }.ticks();
            assert!((2..=31).contains(&ticks.len()), "{seconds}: {ticks:?}");
        }
        assert_eq!(
            (clock(60.0), clock(3600.0)),
            ("60 s".into(), "60:00".into())
        );
    }
}
