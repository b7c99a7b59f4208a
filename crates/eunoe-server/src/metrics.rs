//! Numbers for Prometheus, by vLLM's names where they mean the same.

use std::time::Duration;

use eunoe_engine::schedule::Standing;
use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram, with_local_recorder};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusRecorder};

/// Upper ends of the histograms' buckets, in seconds.
const BUCKETS: [f64; 14] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0];

/// What is counted.
pub(crate) struct Metrics {
    recorder: PrometheusRecorder,
    first_token: Histogram,
    between_tokens: Histogram,
    whole: Histogram,
    gauges: [Gauge; 8],
    counters: [Counter; 5],
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let names = [
            "vllm:time_to_first_token_seconds",
            "vllm:inter_token_latency_seconds",
            "vllm:e2e_request_latency_seconds",
        ];
        let builder = names.iter().try_fold(PrometheusBuilder::new(), |builder, name| {
            builder.set_buckets_for_metric(Matcher::Full((*name).into()), &BUCKETS)
        });
        let recorder = builder.unwrap_or_default().build_recorder();
        let (histograms, gauges, counters) = with_local_recorder(&recorder, || {
            (
                names.map(|name| histogram!(name)),
                [
                    "vllm:num_requests_running",
                    "vllm:num_requests_swapped",
                    "vllm:num_requests_waiting",
                    "vllm:kv_cache_usage_perc",
                    "eunoe:kv_bytes",
                    "eunoe:kv_bytes_peak",
                    "eunoe:kv_bytes_cap",
                    "eunoe:kv_bytes_cached",
                ]
                .map(|name| gauge!(name)),
                [
                    "vllm:prompt_tokens_total",
                    "vllm:generation_tokens_total",
                    "vllm:num_preemptions_total",
                    "vllm:prefix_cache_queries_total",
                    "vllm:prefix_cache_hits_total",
                ]
                .map(|name| counter!(name)),
            )
        });
        let [first_token, between_tokens, whole] = histograms;
        Self { recorder, first_token, between_tokens, whole, gauges, counters }
    }

    /// An answer that ended: `stop`, `length`, `abort` or `error`.
    pub(crate) fn ended(&self, why: &'static str, seconds: Duration) {
        with_local_recorder(&self.recorder, || {
            counter!("vllm:request_success_total", "finished_reason" => why).increment(1);
        });
        self.whole.record(seconds);
    }

    /// A token came so long after the request, or after the one before.
    pub(crate) fn token(&self, is_first: bool, after: Duration) {
        if is_first { self.first_token.record(after) } else { self.between_tokens.record(after) }
    }

    /// All of it, as Prometheus reads it.
    pub(crate) fn render(&self, standing: &Standing, cap: u64) -> String {
        let values = [
            standing.running as f64,
            standing.parked as f64,
            standing.waiting as f64,
            standing.live_bytes as f64 / cap.max(1) as f64,
            standing.live_bytes as f64,
            standing.peak_bytes as f64,
            cap as f64,
            standing.cached_bytes as f64,
        ];
        self.gauges.iter().zip(values).for_each(|(gauge, value)| gauge.set(value));
        let ([read, written], [asked, reused]) = (standing.tokens, standing.prefixes);
        self.counters
            .iter()
            .zip([read, written, standing.preemptions, asked, reused])
            .for_each(|(c, value)| c.absolute(value));
        let handle = self.recorder.handle();
        handle.run_upkeep();
        handle.render()
    }
}
