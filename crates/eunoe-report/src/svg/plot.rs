//! Points and lines over two axes.

use std::fmt::Write;

use super::labels::{self, LETTER};
use super::{Anchor, Axis, Canvas, Look, at, short};

const LEFT: f64 = 50.0;
const TOP: f64 = 26.0;
const BOTTOM: f64 = 38.0;
/// Width of a marker before a name.
const KEY: f64 = 14.0;
/// Longest name written into a chart.
const NAME: usize = 32;

/// One value.
#[derive(Clone, Debug)]
pub struct Point {
    /// Along.
    pub x: f64,
    /// Up.
    pub y: f64,
    /// Its interval.
    pub range: Option<[f64; 2]>,
    /// Its name in the chart, where there is room.
    pub label: Option<String>,
    /// All about it, shown on hover.
    pub title: String,
}

/// How joined points and intervals are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A thin line, and a whisker for each interval.
    Thread,
    /// A line of this pattern (0 is solid) with small marks, and a band for the intervals.
    Band(usize),
}

/// Points of one look.
#[derive(Clone, Debug)]
pub struct Curve {
    /// Colour and marks.
    pub look: Look,
    /// Left to right.
    pub points: Vec<Point>,
    /// Points are joined, and this stands at the right end.
    pub joined: Option<String>,
    /// How lines and intervals are drawn.
    pub form: Form,
}

/// A chart.
#[derive(Clone, Debug)]
pub struct Plot {
    /// For those who cannot see it.
    pub name: String,
    /// Width and height.
    pub size: (f64, f64),
    /// Along.
    pub x: Axis,
    /// Up.
    pub y: Axis,
    /// What is shown.
    pub curves: Vec<Curve>,
    /// Corners of the front of best points, left to right.
    pub front: Vec<(f64, f64)>,
    /// A line at this height.
    pub level: Option<f64>,
    /// A line where x equals y.
    pub diagonal: bool,
}

impl Plot {
    /// A chart without anything in it.
    pub fn new(name: String, size: (f64, f64), x: Axis, y: Axis) -> Self {
        Self { name, size, x, y, curves: Vec::new(), front: Vec::new(), level: None, diagonal: false }
    }

    /// The picture, for a page that has the style sheet.
    pub fn svg(&self) -> String {
        let mut canvas = Canvas::new(self.size.0, self.size.1);
        self.axes(&mut canvas);
        self.lines(&mut canvas);
        // Bands below, then lines, then marks, so that no interval hides a point.
        self.curves.iter().for_each(|curve| self.spread(&mut canvas, curve));
        self.curves.iter().for_each(|curve| self.curve(&mut canvas, curve));
        self.end_names(&mut canvas);
        self.point_names(&mut canvas);
        canvas.finish(&self.name)
    }

    /// The picture as a file of its own.
    pub fn file(&self) -> String {
        let open = "<svg xmlns=\"http://www.w3.org/2000/svg\" ";
        let svg = self.svg().replacen("<svg ", open, 1);
        let css = include_str!("../page/style.css");
        let paper = "<rect width=\"100%\" height=\"100%\" style=\"fill: var(--paper)\"/>";
        match svg.split_once('>') {
            Some((head, body)) => format!("{head}><style><![CDATA[{css}]]></style>{paper}{body}\n"),
            None => svg,
        }
    }

    fn right(&self) -> f64 {
        let longest = self.curves.iter().filter_map(|curve| curve.joined.as_ref());
        let longest = longest.map(|name| name.chars().count().min(NAME)).max().unwrap_or(0);
        let room = if longest > 0 { 12.0 + longest as f64 * LETTER } else { 26.0 };
        (self.size.0 - room - if self.has_threads() { KEY } else { 0.0 }).max(LEFT + 40.0)
    }

    /// Names at the right end of threads have their marker before them.
    fn has_threads(&self) -> bool {
        self.curves.iter().any(|curve| curve.joined.is_some() && curve.form == Form::Thread)
    }

    fn place(&self, x: f64, y: f64) -> (f64, f64) {
        (self.x.place(x, LEFT, self.right()), self.height(y))
    }

    fn height(&self, y: f64) -> f64 {
        self.y.place(y, self.size.1 - BOTTOM, TOP)
    }

    /// Points that both axes can show.
    fn shown<'a>(&self, curve: &'a Curve) -> impl Iterator<Item = &'a Point> {
        let (x, y) = (self.x.clone(), self.y.clone());
        curve.points.iter().filter(move |point| x.holds(point.x) && y.holds(point.y))
    }

    fn axes(&self, canvas: &mut Canvas) {
        let (right, bottom) = (self.right(), self.size.1 - BOTTOM);
        for (value, text) in self.y.ticks(5) {
            let y = self.height(value);
            canvas.line("grid", (LEFT, y), (right, y));
            canvas.text("tick", (LEFT - 6.0, y + 3.5), Anchor::End, &text);
        }
        canvas.line("axis", (LEFT, bottom), (right, bottom));
        let most = ((right - LEFT) / 56.0) as usize;
        for (value, text) in self.x.ticks(most.clamp(2, 8)) {
            let x = self.x.place(value, LEFT, right);
            canvas.line("axis", (x, bottom), (x, bottom + 4.0));
            canvas.text("tick", (x, bottom + 16.0), Anchor::Middle, &text);
        }
        canvas.text("label", (0.0, 12.0), Anchor::Start, &self.y.label);
        canvas.text("label", (right, self.size.1 - 6.0), Anchor::End, &self.x.label);
    }

    fn lines(&self, canvas: &mut Canvas) {
        let right = self.right();
        if let Some(level) = self.level {
            canvas.line("level", (LEFT, self.height(level)), (right, self.height(level)));
        }
        if self.diagonal {
            let [low, high] = [self.x.range[0].max(self.y.range[0]), self.x.range[1].min(self.y.range[1])];
            canvas.line("level", self.place(low, low), self.place(high, high));
        }
        let front: Vec<(f64, f64)> = self.front.iter().map(|(x, y)| self.place(*x, *y)).collect();
        if front.len() > 1 {
            canvas.push(&format!("<path class=\"front\" d=\"{}\"/>", path(&front)));
        }
    }

    fn spread(&self, canvas: &mut Canvas, curve: &Curve) {
        let ranges: Vec<(f64, [f64; 2])> = self
            .shown(curve)
            .filter_map(|point| {
                Some((self.place(point.x, point.y).0, point.range?.map(|end| self.height(end))))
            })
            .collect();
        let class = curve.look.class();
        // A band of one point would not be seen.
        if curve.form == Form::Thread || ranges.len() == 1 {
            for (x, [low, high]) in ranges {
                canvas.line(&format!("whisker {class}"), (x, low), (x, high));
            }
        } else if ranges.len() > 1 {
            let up = ranges.iter().map(|(x, [_, high])| (*x, *high));
            let down = ranges.iter().rev().map(|(x, [low, _])| (*x, *low));
            let corners: Vec<_> = up.chain(down).collect();
            canvas.push(&format!("<path class=\"band {class}\" d=\"{}Z\"/>", path(&corners)));
        }
    }

    fn curve(&self, canvas: &mut Canvas, curve: &Curve) {
        let mut body = String::new();
        let points: Vec<(f64, f64)> = self.shown(curve).map(|point| self.place(point.x, point.y)).collect();
        let (class, size) = match curve.form {
            Form::Thread => ("thread".to_string(), 1.0),
            Form::Band(dash) => (format!("line d{}", dash % 4), 0.65),
        };
        if curve.joined.is_some() && points.len() > 1 {
            let _ = write!(body, "<path class=\"{class}\" d=\"{}\"/>", path(&points));
        }
        for (point, (x, y)) in self.shown(curve).zip(&points) {
            body.push_str(&curve.look.marker((*x, *y), size, &point.title));
        }
        canvas.push(&format!("<g class=\"{}\">{body}</g>", curve.look.class()));
    }

    /// Names at the right ends of joined curves.
    fn end_names(&self, canvas: &mut Canvas) {
        let ends: Vec<(&Curve, &str, f64)> = self
            .curves
            .iter()
            .filter_map(|curve| {
                Some((curve, curve.joined.as_deref()?, self.height(self.shown(curve).last()?.y) + 3.5))
            })
            .collect();
        let wanted: Vec<f64> = ends.iter().map(|(_, _, y)| *y).collect();
        let heights = labels::column(&wanted, TOP + 3.5, self.size.1 - BOTTOM + 3.5);
        for ((curve, name, _), y) in ends.iter().zip(heights) {
            let mut x = self.right() + 8.0;
            if curve.form == Form::Thread {
                let marker = curve.look.marker((x + 4.0, y - 3.5), 0.85, "");
                canvas.push(&format!("<g class=\"{}\">{marker}</g>", curve.look.class()));
                x += KEY;
            }
            canvas.text("name", (x, y), Anchor::Start, &short(name, NAME));
        }
    }

    /// Names of points; those on the front are placed first.
    fn point_names(&self, canvas: &mut Canvas) {
        let mut points: Vec<&Point> = self.curves.iter().flat_map(|curve| self.shown(curve)).collect();
        points.sort_by_key(|point| !self.front.contains(&(point.x, point.y)));
        let places: Vec<(f64, f64)> = points.iter().map(|point| self.place(point.x, point.y)).collect();
        let names: Vec<Option<String>> =
            points.iter().map(|point| point.label.as_ref().map(|label| short(label, NAME))).collect();
        let inside = [LEFT, TOP - 12.0, self.right() + 12.0, self.size.1 - BOTTOM];
        let free = labels::around(&places, &names.iter().map(Option::as_deref).collect::<Vec<_>>(), inside);
        for (place, name) in free.iter().zip(&names) {
            if let (Some(place), Some(name)) = (place, name) {
                canvas.text("name", *place, Anchor::Start, name);
            }
        }
    }
}

/// A path through points.
fn path(points: &[(f64, f64)]) -> String {
    let points: Vec<String> = points.iter().map(|(x, y)| format!("{} {}", at(*x), at(*y))).collect();
    format!("M{}", points.join("L"))
}

#[cfg(test)]
mod tests {
    use super::super::Kind;
    use super::*;

    fn point(x: f64, y: f64) -> Point {
        Point { x, y, range: Some([y - 0.1, y + 0.1]), label: Some("p".into()), title: "<t>".into() }
    }

    fn plot(form: Form, joined: Option<String>, points: Vec<Point>) -> Plot {
        let axes =
            (Axis::new("bytes", Kind::Bytes, [1024.0, 4096.0]), Axis::new("score", Kind::Score, [0.0, 1.0]));
        let mut plot = Plot::new("a chart".into(), (376.0, 164.0), axes.0, axes.1);
        plot.curves.push(Curve { look: Look::new(0), points, joined, form });
        plot
    }

    #[test]
    fn points_stand_where_their_values_are() {
        // From 50 to 350 over two doublings, from 126 (0) to 26 (1): 2048 at 200, 0.5 at 76; the whisker 0.4
        // to 0.6.
        let svg = plot(Form::Thread, None, vec![point(2048.0, 0.5)]).svg();
        assert!(svg.contains("M196 76a4 4"), "{svg}");
        assert!(svg.contains("<path class=\"whisker c0\" d=\"M200 86L200 66\"/>"), "{svg}");
        assert!(svg.contains("<title>&lt;t&gt;</title>"));
    }

    #[test]
    fn what_no_axis_can_show_is_left_out() {
        let svg = plot(
            Form::Thread,
            None,
            vec![point(0.0, 0.5), point(f64::NAN, 0.5), point(2048.0, f64::INFINITY)],
        )
        .svg();
        assert!(!svg.contains("NaN") && !svg.contains("inf") && !svg.contains("class=\"mark\""));
    }

    #[test]
    fn a_file_brings_its_style() {
        let file = plot(Form::Thread, None, vec![point(2048.0, 0.5)]).file();
        assert!(file.starts_with("<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"chart\""), "{file}");
        assert!(file.contains("><style><![CDATA[:root {") && file.ends_with("</svg>\n"));
        assert_eq!(file.matches("<svg").count(), 1);
    }

    #[test]
    fn joined_points_have_a_band_and_a_name() {
        let svg =
            plot(Form::Band(0), Some("25 %".into()), vec![point(1024.0, 0.5), point(4096.0, 0.5)]).svg();
        assert!(
            svg.contains("class=\"band c0\"")
                && svg.contains("class=\"line d0\"")
                && svg.contains(">25 %</text>")
        );
        let one = plot(Form::Band(0), Some("25 %".into()), vec![point(1024.0, 0.5)]).svg();
        assert!(
            !one.contains("class=\"line") && !one.contains("class=\"band") && one.contains("class=\"whisker")
        );
    }
}
