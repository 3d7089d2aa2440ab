-- Macros the queries rely on, in DuckDB's dialect. Another engine gets a file of its own with the same names.

-- phi: log p_y - log(1 - p_y) from logits and a label counted from 0; finite where p_y rounds to 0 or 1.
create macro phi(logits, label) as (
  with parts as (
    select list_transform(logits, lambda z: z::double) as z, label + 1 as y
  ), others as (
    select z[y] as own, list_concat(z[:y - 1], z[y + 1:]) as rest from parts
  )
  select own - (list_max(rest) + ln(list_sum(list_transform(rest, lambda r: exp(r - list_max(rest)))))) from others
);

-- cross_entropy: -log p_y from logits and a label counted from 0.
create macro cross_entropy(logits, label) as (
  with parts as (select list_transform(logits, lambda z: z::double) as z, label + 1 as y)
  select list_max(z) + ln(list_sum(list_transform(z, lambda r: exp(r - list_max(z))))) - z[y] from parts
);

-- quantile_range: difference of two quantiles of a list, linear interpolation; NULL elements are left out.
create macro quantile_range(trace, low, high) as
  list_aggregate(trace::double[], 'quantile_cont', [low, high])[2]
  - list_aggregate(trace::double[], 'quantile_cont', [low, high])[1];

-- lt_iqr: Q75 - Q25 of a trace.
create macro lt_iqr(trace) as quantile_range(trace, 0.25, 0.75);

-- slope_of: least-squares slope of ys over xs, lists of equal length without NULL; both are centred first.
create macro slope_of(xs, ys) as
  list_inner_product(list_transform(xs, lambda x: x - list_avg(xs)), list_transform(ys, lambda y: y - list_avg(ys)))
  / nullif(list_inner_product(list_transform(xs, lambda x: x - list_avg(xs)),
                              list_transform(xs, lambda x: x - list_avg(xs))), 0);

-- trace_slope: least-squares slope over epochs; epochs that are NULL are left out. NULL where fewer than two are there.
create macro trace_slope(trace) as
  slope_of(list_filter(range(len(trace))::double[], lambda epoch: trace[epoch::bigint + 1] is not null),
           list_filter(trace::double[], lambda value: value is not null));

-- power_norm: the Lp norm of a list.
create macro power_norm(trace, p) as
  power(list_sum(list_transform(trace, lambda value: power(abs(value), p))), 1.0 / p);

-- first_at_most: the first position (from 0) whose value is at most the bound; the length where none is.
create macro first_at_most(trace, bound) as
  coalesce(list_position(list_transform(trace, lambda value: value is not null and value::double <= bound), true) - 1,
           len(trace));

-- times_lost: how often a value above 0 is followed by one that is not; the length of the list where none is above 0.
-- The list has no NULL.
create macro times_lost(trace) as
  case when list_max(trace) > 0
       then len(list_filter(range(1, len(trace)), lambda epoch: trace[epoch] > 0 and not trace[epoch + 1] > 0))
       else len(trace) end;

-- log_normal_density: log N(x; mean, variance).
create macro log_normal_density(x, mean, variance) as
  -0.5 * (ln(2 * pi() * variance) + (x - mean) * (x - mean) / variance);

-- within_floor: a variance that is never so small that a score stops being finite.
create macro within_floor(variance) as greatest(variance, 1e-12);

-- tail_polynomial: log(erfcx(x) (1 + x / 2)) as a polynomial in t = 1 / (1 + x / 2), fitted at 4,000 Chebyshev
-- nodes; its error is below 4e-10 for every x >= 0.
create macro tail_polynomial(t) as
  -1.265512123798722 + t * (1.0000001455554899 + t * (0.374988806646863 + t * (0.08367277051123008
  + t * (-0.09131572145072275 + t * (-0.09266238003544976 + t * (-0.40599902768581086 + t * (1.3364799677044388
  + t * (-3.619014715884675 + t * (7.549808959094475 + t * (-9.899900556044665 + t * (8.020689022172084
  + t * (-3.9593504694231925 + t * (1.1011739767919688 - t * 0.13305865401902456)))))))))))));

-- log_upper_tail: log Pr[Z > z] of a standard normal for z >= 0, by erfc(x) = erfcx(x) exp(-x^2) at x = z / sqrt(2).
create macro log_upper_tail(z) as
  tail_polynomial(1 / (1 + z / sqrt(8.0))) - ln(2 * (1 + z / sqrt(8.0))) - z * z / 2;

-- log_normal_tail: log Pr[Z > z] of a standard normal, accurate on both sides.
create macro log_normal_tail(z) as
  case when z >= 0 then log_upper_tail(abs(z))
       when z < -5 then -exp(log_upper_tail(abs(z))) * (1 + exp(log_upper_tail(abs(z))) / 2)
       else ln(1 - exp(log_upper_tail(abs(z)))) end;

-- smallest: the n smallest values of a group as a list, ascending; an aggregate. NULLs are left out.
create macro smallest(x, n) as min(x, n);

-- wilson_low, wilson_high: Wilson's (1927) 95% interval of a share seen in n trials; 3.841458820694124 is z squared.
create macro wilson_low(share, n) as
  (share + 3.841458820694124 / (2 * n)
   - 1.959963984540054 * sqrt(share * (1 - share) / n + 3.841458820694124 / (4.0 * n * n))) / (1 + 3.841458820694124 / n);
create macro wilson_high(share, n) as
  (share + 3.841458820694124 / (2 * n)
   + 1.959963984540054 * sqrt(share * (1 - share) / n + 3.841458820694124 / (4.0 * n * n))) / (1 + 3.841458820694124 / n);
