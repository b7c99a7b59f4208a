//! Where names of points go, so that none covers another.

/// Width of a letter and height of a line of the small text in charts.
pub(super) const LETTER: f64 = 6.1;
pub(super) const LINE: f64 = 12.0;
/// Half the box that a marker takes.
const MARK: f64 = 5.0;

/// Left, top, right, bottom.
pub(super) type Rect = [f64; 4];

fn overlap(a: &Rect, b: &Rect) -> bool {
    a[0] < b[2] && b[0] < a[2] && a[1] < b[3] && b[1] < a[3]
}

/// For each point the left end of its label's base line, where one of eight places around it is free; labels
/// of earlier points go first.
pub(super) fn around(
    points: &[(f64, f64)],
    labels: &[Option<&str>],
    inside: Rect,
) -> Vec<Option<(f64, f64)>> {
    let marks = points.iter().map(|(x, y)| [x - MARK, y - MARK, x + MARK, y + MARK]);
    let mut taken: Vec<Rect> = marks.collect();
    let mut place = |&(x, y): &(f64, f64), label: &str| {
        let width = label.chars().count() as f64 * LETTER;
        let (right, left, middle) = (x + 7.0, x - 7.0 - width, x - width / 2.0);
        let spots = [
            (right, y - LINE / 2.0),
            (left, y - LINE / 2.0),
            (middle, y - LINE - 5.0),
            (middle, y + 5.0),
            (right, y - LINE - 1.0),
            (right, y + 1.0),
            (left, y - LINE - 1.0),
            (left, y + 1.0),
        ];
        let rects = spots.map(|(left, top)| [left, top, left + width, top + LINE]);
        let is_inside =
            |r: &Rect| r[0] >= inside[0] && r[1] >= inside[1] && r[2] <= inside[2] && r[3] <= inside[3];
        let free =
            rects.into_iter().find(|r| is_inside(r) && !taken.iter().any(|other| overlap(r, other)))?;
        taken.push(free);
        Some((free[0], free[3] - 3.0))
    };
    points.iter().zip(labels).map(|(point, label)| place(point, (*label)?)).collect()
}

/// Heights of labels in a column, in the order given: near where they want to be, at least a line apart, from
/// `top` to `bottom` where they fit.
pub(super) fn column(wanted: &[f64], top: f64, bottom: f64) -> Vec<f64> {
    let mut order: Vec<usize> = (0..wanted.len()).collect();
    order.sort_by(|&i, &j| wanted[i].total_cmp(&wanted[j]));
    let mut heights = wanted.to_vec();
    let mut least = top;
    for &i in &order {
        heights[i] = heights[i].max(least);
        least = heights[i] + LINE;
    }
    let mut most = bottom;
    for &i in order.iter().rev() {
        heights[i] = heights[i].min(most);
        most = heights[i] - LINE;
    }
    heights
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_neither_overlap_nor_leave_the_chart() {
        let mut random = fastrand::Rng::with_seed(5);
        let points: Vec<(f64, f64)> = (0..60).map(|_| (random.f64() * 400.0, random.f64() * 300.0)).collect();
        let places = around(&points, &vec![Some("snapkv @ 25%"); 60], [0.0, 0.0, 400.0, 300.0]);
        let width = 12.0 * LETTER;
        let rects: Vec<Rect> =
            places.iter().flatten().map(|(x, y)| [*x, y + 3.0 - LINE, x + width, y + 3.0]).collect();
        assert!(rects.len() > 15);
        for (i, a) in rects.iter().enumerate() {
            assert!(a[0] >= 0.0 && a[1] >= 0.0 && a[2] <= 400.0 && a[3] <= 300.0);
            assert!(rects[..i].iter().all(|b| !overlap(a, b)));
        }
    }

    #[test]
    fn a_label_stands_right_of_its_point_and_else_left() {
        let places =
            around(&[(50.0, 50.0), (95.0, 80.0)], &[Some("ab"), Some("ab")], [0.0, 0.0, 100.0, 100.0]);
        assert_eq!(places[0], Some((57.0, 53.0)));
        assert_eq!(places[1], Some((95.0 - 7.0 - 2.0 * LETTER, 83.0)));
        assert_eq!(around(&[(0.0, 0.0)], &[None], [0.0; 4]), [None]);
    }

    #[test]
    fn a_column_keeps_its_lines_apart() {
        // 50 and 52 are too near: the second moves to 62. 99 has to stay above 100 and moves nothing.
        assert_eq!(column(&[50.0, 52.0, 99.0], 0.0, 100.0), [50.0, 62.0, 99.0]);
        // All want the bottom: stacked upwards in order.
        assert_eq!(column(&[100.0, 100.0, 100.0], 0.0, 100.0), [76.0, 88.0, 100.0]);
    }
}
