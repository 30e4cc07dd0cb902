//! The plot of a run as an SVG file: training reward (or loss) by step and validation accuracy.

use std::fs;
use std::io;
use std::path::Path;

use nemo_rl::run::RunSummary;
use plotters::prelude::*;

use super::summary::Kind;

const SIZE: (u32, u32) = (900, 480);
/// Steps on either side of one that its smoothed value is a mean of.
const SMOOTHING: usize = 4;

/// One line of the plot.
struct Line {
    label: String,
    points: Vec<(u64, f64)>,
    color: RGBColor,
    width: u32,
    /// With a mark at each point.
    marked: bool,
}

/// Writes the plot; false if there is nothing to show yet.
///
/// # Errors
/// When the file cannot be written.
pub fn write(path: &Path, summary: &RunSummary, kind: Kind) -> io::Result<bool> {
    let lines = lines(summary, kind);
    if lines.iter().all(|line| line.points.len() < 2) {
        return Ok(false);
    }
    let text = draw(&lines, kind).map_err(|error| io::Error::other(error.to_string()))?;
    let aside = path.with_extension("svg.tmp");
    fs::write(&aside, text)?;
    fs::rename(&aside, path)?;
    Ok(true)
}

fn lines(summary: &RunSummary, kind: Kind) -> Vec<Line> {
    let finite = |name: &str| -> Vec<(u64, f64)> {
        summary.series(name).into_iter().filter(|(_, value)| value.is_finite()).collect()
    };
    let raw = finite(kind.train_metric());
    let mut lines = vec![
        Line {
            label: kind.train_metric().to_owned(),
            points: raw.clone(),
            color: RGBColor(190, 205, 225),
            width: 1,
            marked: false,
        },
        Line {
            label: format!("{}, smoothed", kind.train_metric()),
            points: smoothed(&raw),
            color: RGBColor(40, 90, 170),
            width: 2,
            marked: false,
        },
    ];
    let colors = [RGBColor(200, 80, 40), RGBColor(40, 140, 70), RGBColor(140, 70, 160), RGBColor(120, 120, 40)];
    let parts = [
        ("unseen fillings, sampled", "validation/accuracy/unseen_fillings"),
        ("unseen fillings, greedy", "validation/greedy_accuracy/unseen_fillings"),
        ("unseen templates, sampled", "validation/accuracy/unseen_templates"),
        ("unseen templates, greedy", "validation/greedy_accuracy/unseen_templates"),
    ];
    let held_out: Vec<Line> = parts
        .iter()
        .zip(colors)
        .map(|((label, name), color)| Line {
            label: (*label).to_owned(),
            points: finite(name),
            color,
            width: 2,
            marked: true,
        })
        .filter(|line| !line.points.is_empty())
        .collect();
    if held_out.is_empty() {
        for ((label, name), color) in
            [("validation, sampled", "validation/accuracy"), ("validation, greedy", "validation/greedy_accuracy")]
                .iter()
                .zip(colors)
        {
            lines.push(Line { label: (*label).to_owned(), points: finite(name), color, width: 2, marked: true });
        }
    }
    lines.extend(held_out);
    lines.retain(|line| !line.points.is_empty());
    lines
}

fn smoothed(points: &[(u64, f64)]) -> Vec<(u64, f64)> {
    (0..points.len())
        .map(|i| {
            let part = &points[i.saturating_sub(SMOOTHING)..(i + SMOOTHING + 1).min(points.len())];
            (points[i].0, part.iter().map(|(_, value)| value).sum::<f64>() / part.len() as f64)
        })
        .collect()
}

fn draw(lines: &[Line], kind: Kind) -> Result<String, Box<dyn std::error::Error>> {
    let last_step = lines.iter().flat_map(|line| &line.points).map(|(step, _)| *step).max().unwrap_or(1).max(1);
    let highest = lines.iter().flat_map(|line| &line.points).map(|(_, value)| *value).fold(1.0, f64::max);
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
        area.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&area)
            .margin(16)
            .x_label_area_size(40)
            .y_label_area_size(50)
            .build_cartesian_2d(0..last_step, 0.0..highest * 1.02)?;
        let y_name = match kind {
            Kind::Grpo => "mean reward, accuracy",
            Kind::Supervised => "loss in nats, accuracy",
        };
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(RGBColor(230, 230, 230))
            .x_desc("step")
            .y_desc(y_name)
            .label_style(("sans-serif", 14))
            .draw()?;
        for line in lines {
            let style = ShapeStyle { color: line.color.to_rgba(), filled: true, stroke_width: line.width };
            chart
                .draw_series(LineSeries::new(line.points.iter().copied(), style))?
                .label(line.label.as_str())
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
            if line.marked {
                chart.draw_series(line.points.iter().map(|&point| Circle::new(point, 3, style)))?;
            }
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .background_style(WHITE.mix(0.8))
            .border_style(RGBColor(200, 200, 200))
            .label_font(("sans-serif", 13))
            .draw()?;
        area.present()?;
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use nemo_rl::run::RunEnd;

    use super::*;

    #[test]
    fn a_run_gives_an_svg_with_its_lines() {
        let history = (0..20)
            .map(|step| {
                let mut metrics = nemo_rl::metrics::Metrics::new();
                metrics.insert("train/reward".to_owned(), step as f64 / 20.0);
                if step % 5 == 0 {
                    metrics.insert("validation/accuracy/unseen_fillings".to_owned(), 0.3);
                }
                (step, metrics)
            })
            .collect();
        let summary = RunSummary {
            folder: PathBuf::new(),
            end: RunEnd::Finished,
            first_step: 0,
            last_step: 19,
            checkpoint: None,
            history,
            validation: Vec::new(),
        };
        let text = draw(&lines(&summary, Kind::Grpo), Kind::Grpo).unwrap();
        assert!(text.starts_with("<svg"), "{text}");
        assert!(text.contains("train/reward, smoothed") && text.contains("unseen fillings, sampled"));
    }
}
