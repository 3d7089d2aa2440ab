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

-- lt_iqr: Q75 - Q25 of a trace, linear interpolation; NULL elements (epochs not recorded) are left out.
create macro lt_iqr(trace) as
  list_aggregate(trace::double[], 'quantile_cont', 0.75) - list_aggregate(trace::double[], 'quantile_cont', 0.25);

-- log_normal_density: log N(x; mean, variance).
create macro log_normal_density(x, mean, variance) as
  -0.5 * (ln(2 * pi() * variance) + (x - mean) * (x - mean) / variance);

-- within_floor: a variance that is never so small that a score stops being finite.
create macro within_floor(variance) as greatest(variance, 1e-12);
