//! A small curve made of characters.

/// Columns of the curve at most.
const WIDTH: usize = 64;
const HEIGHT: usize = 8;
/// Eighths of a character cell, from the bottom.
const BLOCKS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// Bars over the steps of a series, from the lowest to the highest value; several steps share a column if there are
/// many. Values that are no numbers are left out.
pub fn text(series: &[(u64, f64)]) -> String {
    let points: Vec<(u64, f64)> = series.iter().copied().filter(|(_, value)| value.is_finite()).collect();
    let (Some(first), Some(last)) = (points.first(), points.last()) else { return String::new() };
    let columns = columns(&points);
    let lowest = columns.iter().copied().fold(f64::INFINITY, f64::min);
    let highest = columns.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let range = if highest > lowest { highest - lowest } else { 1.0 };
    let eighths = |value: f64| (((value - lowest) / range * (HEIGHT * 8 - 1) as f64).round() as usize) + 1;
    let mut lines = Vec::with_capacity(HEIGHT + 1);
    for row in (0..HEIGHT).rev() {
        let label = match row {
            0 => format!("{lowest:8.3}"),
            _ if row + 1 == HEIGHT => format!("{highest:8.3}"),
            _ => " ".repeat(8),
        };
        let cells: String =
            columns.iter().map(|&value| BLOCKS[eighths(value).saturating_sub(row * 8).min(8)]).collect();
        lines.push(format!("{label} ┤{}", cells.trim_end()));
    }
    let (first, last) = (first.0.to_string(), last.0.to_string());
    let gap = columns.len().saturating_sub(first.len() + last.len()).max(1);
    lines.push(format!("{}{first}{}{last}", " ".repeat(10), " ".repeat(gap)));
    lines.join("\n")
}

/// Means of as many neighbouring values as one column stands for.
fn columns(points: &[(u64, f64)]) -> Vec<f64> {
    let num_columns = points.len().min(WIDTH);
    (0..num_columns)
        .map(|column| {
            let part = &points[column * points.len() / num_columns..(column + 1) * points.len() / num_columns];
            part.iter().map(|(_, value)| value).sum::<f64>() / part.len() as f64
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_curve_rises_from_the_lowest_to_the_highest_value() {
        let text = text(&[(1, 0.0), (2, 0.5), (3, 1.0)]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), HEIGHT + 1);
        assert_eq!(lines[0], "   1.000 ┤  █");
        assert_eq!(lines[HEIGHT - 1], "   0.000 ┤▁██");
        assert_eq!(lines[HEIGHT], "          1 3");
    }

    #[test]
    fn odd_series_have_a_curve() {
        assert_eq!(text(&[]), "");
        assert_eq!(text(&[(1, f64::NAN)]), "");
        assert!(text(&[(1, 2.0)]).contains("2.000"));
        let long: Vec<(u64, f64)> = (0..1000).map(|step| (step, (step % 7) as f64)).collect();
        assert!(text(&long).lines().all(|line| line.chars().count() <= WIDTH + 10));
    }
}
