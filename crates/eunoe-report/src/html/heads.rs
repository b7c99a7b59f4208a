//! Which heads keep what.

use eunoe_core::Result;

use crate::svg::{grid, key, scale};
use crate::units::{count, counted, percent};

use super::data::Data;
use super::parts::{Cell, Figure, Group, Section, Table, groups};

/// Side of a square of the grid.
const SIDE: f64 = 9.0;

pub(super) fn section(data: &Data<'_>) -> Result<Option<Section>> {
    let Some(length) = data
        .lengths
        .iter()
        .rev()
        .find(|length| (0..data.plans.len()).any(|plan| shares(data, plan, **length).is_some()))
    else {
        return Ok(None);
    };
    let mut figures = Vec::new();
    let mut whole = Vec::new();
    for (plan, name) in data.plans.iter().enumerate() {
        let Some((shares, n)) = shares(data, plan, *length) else { continue };
        if shares.iter().flatten().all(|share| *share >= 0.9995) {
            whole.push(*name);
        } else {
            figures.push(figure(data, plan, &shares, n));
        }
    }
    let mut intro = vec![format!(
        "Share of its rows that each KV head of each layer holds at the end, mean of the items at {} tokens. \
         Layers run downwards from 0, KV heads to the right. Colours follow the square root of the share, so \
         that small ones are told apart: the middle of the scale is 25 %.",
        count(*length)
    )];
    if !whole.is_empty() {
        intro.push(format!("Kept whole: {}.", whole.join(", ")));
    }
    groups(
        "heads",
        "Which heads keep what",
        &intro,
        &[Group { figures, size: "small", scale: scale("0 %", "100 %"), ..Group::default() }],
    )
}

/// Mean share kept by layer and head, and the items behind it. Items whose strips do not fill whole layers,
/// or are another number than those of the first, are left out.
fn shares(data: &Data<'_>, plan: usize, length: usize) -> Option<(Vec<Vec<f64>>, usize)> {
    let heads = data.manifest.model.kv_heads;
    let items = data.all_items(data.plans[plan]).filter(|line| line.length == length);
    let kept: Vec<&Vec<u16>> = items.map(|line| &line.kept).filter(|kept| !kept.is_empty()).collect();
    let strips = kept.first()?.len();
    if heads == 0 || strips % heads != 0 {
        return None;
    }
    let kept: Vec<_> = kept.into_iter().filter(|kept| kept.len() == strips).collect();
    let mean = |strip: usize| {
        kept.iter().map(|kept| f64::from(kept[strip])).sum::<f64>() / kept.len() as f64 / 1000.0
    };
    let means: Vec<f64> = (0..strips).map(mean).collect();
    Some((means.chunks(heads).map(<[f64]>::to_vec).collect(), kept.len()))
}

fn figure(data: &Data<'_>, plan: usize, shares: &[Vec<f64>], n: usize) -> Figure {
    let name = data.plans[plan];
    let all: Vec<f64> = shares.iter().flatten().copied().collect();
    let mean = all.iter().sum::<f64>() / all.len().max(1) as f64;
    let mut table =
        Table::new(format!("{name}: share kept by layer and KV head, {}", counted(n, "item")), &["Layer"]);
    table.columns.extend((0..shares.first().map_or(0, Vec::len)).map(|head| format!("head {head}")));
    for (layer, row) in shares.iter().enumerate() {
        let mut line = vec![Cell::head(layer.to_string(), String::new())];
        line.extend(row.iter().map(|share| Cell::num(percent(*share))));
        table.lines.push(line);
    }
    let about = format!("{name}: share kept by layer and KV head, {} on average", percent(mean));
    // Of a small budget the plain shares would all be faint.
    let roots: Vec<Vec<f64>> =
        shares.iter().map(|row| row.iter().map(|share| share.sqrt()).collect()).collect();
    let svg = grid(&about, &roots, SIDE, ("KV head →", "layer ↓"));
    Figure {
        title: name.into(),
        sub: format!("{} kept", percent(mean)),
        key: key(data.look(plan)),
        svg,
        table: Some(table),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::made_up;

    #[test]
    fn shares_are_means_of_items_by_layer_and_head() {
        let (mut manifest, mut lines) = made_up::small();
        (manifest.model.layers, manifest.model.kv_heads) = (2, 1);
        lines[4].kept = vec![500, 250];
        lines[5].kept = vec![9];
        lines[6].kept = vec![1, 2, 3];
        let rows = crate::rows(&manifest, &lines);
        let data = Data::new(&manifest, &rows, &lines);
        // Items 0 and 3 count: (500 + 1000) / 2 and 250.
        assert_eq!(shares(&data, 1, 100), Some((vec![vec![0.75], vec![0.25]], 2)));
        manifest.model.kv_heads = 0;
        assert_eq!(shares(&Data::new(&manifest, &rows, &lines), 1, 100), None);
        manifest.model.kv_heads = 3;
        assert_eq!(shares(&Data::new(&manifest, &rows, &lines), 1, 100), None);
    }
}
