//! Values over a grid.

use std::fmt::Write;

use super::labels::LETTER;
use super::{Anchor, Canvas, at, escape, short};

const STEPS: usize = 10;
/// Longest name of a row.
const NAME: usize = 9;

/// One value of a grid.
#[derive(Clone, Debug)]
pub(crate) struct Cell {
    /// From 0 to 1.
    pub(crate) value: f64,
    pub(crate) text: String,
    /// Smaller, below it.
    pub(crate) below: String,
    pub(crate) title: String,
}

/// A grid with written cells.
#[derive(Clone, Debug)]
pub(crate) struct Heat {
    /// For those who cannot see it.
    pub(crate) name: String,
    pub(crate) rows: Vec<String>,
    /// Names of lines between columns, from the left edge on.
    pub(crate) edges: Vec<(f64, String)>,
    pub(crate) x: String,
    pub(crate) y: String,
    /// Row by row; all of the same width.
    pub(crate) cells: Vec<Vec<Option<Cell>>>,
}

const WIDTH: f64 = 26.0;
const HEIGHT: f64 = 28.0;
const TOP: f64 = 18.0;

/// Step of the colour scale.
fn step(value: f64) -> usize {
    ((value * STEPS as f64) as usize).min(STEPS - 1)
}

impl Heat {
    pub(crate) fn svg(&self) -> String {
        let longest = self.rows.iter().map(|row| row.chars().count().min(NAME)).max().unwrap_or(0);
        let left = 10.0 + longest as f64 * (LETTER + 0.5);
        let columns = self.cells.iter().map(Vec::len).max().unwrap_or(0);
        let bottom = TOP + HEIGHT * self.rows.len() as f64;
        let mut canvas = Canvas::new(left + WIDTH * columns as f64 + 18.0, bottom + 32.0);
        canvas.text("label", (0.0, 11.0), Anchor::Start, &self.y);
        for (r, (row, cells)) in self.rows.iter().zip(&self.cells).enumerate() {
            let y = TOP + HEIGHT * r as f64;
            canvas.text("tick", (left - 6.0, y + HEIGHT / 2.0 + 3.5), Anchor::End, &short(row, NAME));
            for (c, cell) in cells.iter().enumerate() {
                square(&mut canvas, left + WIDTH * c as f64, y, cell.as_ref());
            }
        }
        for (column, text) in &self.edges {
            canvas.text("tick", (left + WIDTH * column, bottom + 13.0), Anchor::Middle, text);
        }
        canvas.text("label", (left + WIDTH * columns as f64, bottom + 28.0), Anchor::End, &self.x);
        canvas.finish(&self.name)
    }
}

fn square(canvas: &mut Canvas, x: f64, y: f64, cell: Option<&Cell>) {
    let (w, h) = (at(WIDTH - 1.0), at(HEIGHT - 1.0));
    let (left, top) = (at(x + 0.5), at(y + 0.5));
    let rect = |class: &str, title: &str| {
        let title = escape(title);
        let place = format!("x=\"{left}\" y=\"{top}\" width=\"{w}\" height=\"{h}\"");
        format!("<rect class=\"{class}\" {place}><title>{title}</title></rect>")
    };
    let Some(cell) = cell else {
        return canvas.push(&rect("empty", "no items"));
    };
    let step = step(cell.value);
    canvas.push(&rect(&format!("q{step}"), &cell.title));
    let ink = if step < 6 { "low" } else { "high" };
    let middle = x + WIDTH / 2.0;
    canvas.text(&format!("cell {ink}"), (middle, y + 13.0), Anchor::Middle, &cell.text);
    canvas.text(&format!("n {ink}"), (middle, y + 23.0), Anchor::Middle, &cell.below);
}

/// What the colours mean.
pub(crate) fn scale(from: &str, to: &str) -> String {
    let mut canvas = Canvas::new(230.0, 14.0);
    canvas.text("tick", (26.0, 11.0), Anchor::End, from);
    for step in 0..STEPS {
        let x = at(32.0 + 15.0 * step as f64);
        canvas.push(&format!("<rect class=\"q{step}\" x=\"{x}\" y=\"1\" width=\"15\" height=\"12\"/>"));
    }
    canvas.text("tick", (188.0, 11.0), Anchor::Start, to);
    canvas.finish(&format!("Colours from {from}, faint, to {to}, strong, in ten steps"))
}

/// A grid without text, row by row from the top, `size` wide and high: one path per step of the scale.
pub(crate) fn grid(name: &str, rows: &[Vec<f64>], size: f64, (x, y): (&str, &str)) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let (left, top) = (26.0, 14.0);
    let bottom = top + size * rows.len() as f64;
    let mut canvas = Canvas::new((left + size * columns as f64 + 4.0).max(110.0), bottom + 16.0);
    let mut paths = vec![String::new(); STEPS];
    for (r, row) in rows.iter().enumerate() {
        for (c, value) in row.iter().enumerate() {
            let (x, y, edge) = (at(left + size * c as f64), at(top + size * r as f64), at(size - 0.5));
            let _ = write!(paths[step(*value)], "M{x} {y}h{edge}v{edge}h-{edge}z");
        }
    }
    for (step, path) in paths.iter().enumerate().filter(|(_, path)| !path.is_empty()) {
        canvas.push(&format!("<path class=\"q{step}\" d=\"{path}\"/>"));
    }
    canvas.text("label", (0.0, 10.0), Anchor::Start, y);
    for row in (0..rows.len()).step_by(rows.len().div_ceil(4).max(1)) {
        let y = top + size * (row as f64 + 0.5) + 3.5;
        canvas.text("tick", (left - 5.0, y), Anchor::End, &row.to_string());
    }
    canvas.text("label", (left, bottom + 12.0), Anchor::Start, x);
    canvas.finish(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_tenths() {
        assert_eq!(
            [step(0.0), step(0.09), step(0.1), step(0.95), step(1.0), step(f64::NAN)],
            [0, 0, 1, 9, 9, 0]
        );
    }

    #[test]
    fn a_cell_has_its_colour_and_numbers() {
        let cell = Cell { value: 0.72, text: "72".into(), below: "n 4".into(), title: "t".into() };
        let heat = Heat {
            name: "h".into(),
            rows: vec!["4K".into()],
            edges: vec![(0.0, "0".into())],
            x: "depth".into(),
            y: "tokens".into(),
            cells: vec![vec![Some(cell), None]],
        };
        let svg = heat.svg();
        assert!(
            svg.contains("class=\"q7\"")
                && svg.contains("class=\"cell high\"")
                && svg.contains(">n 4</text>")
        );
        assert_eq!(svg.matches("class=\"empty\"").count(), 1);
    }

    #[test]
    fn a_grid_draws_each_value_once() {
        let svg = grid("g", &[vec![0.05, 0.95], vec![0.95, 0.95]], 8.0, ("head", "layer"));
        let of = |class: &str| {
            let from = svg.find(&format!("class=\"{class}\"")).unwrap();
            svg[from..].split("/>").next().unwrap().matches('z').count()
        };
        assert_eq!((of("q0"), of("q9")), (1, 3));
        assert!(grid("g", &[], 8.0, ("", "")).contains("<svg"));
    }
}
