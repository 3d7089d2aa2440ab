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

-- is_drawn: whether a sample is among a share of all that is drawn by their ids, the same each time.
create macro is_drawn(sample_id, share) as
  (sample_id::bigint * 2654435761) % 4294967296 < share * 4294967296;

-- log_gamma_half: log Gamma(a + 1/2) - log Gamma(a) for a > 0.
create macro log_gamma_half(a) as lgamma(a + 0.5) - lgamma(a);

-- digamma, trigamma, tetragamma: the first three derivatives of log Gamma at x > 0, by eight steps of their recurrence and
-- the asymptotic series from there on; errors are below 1e-11.
create macro digamma(x) as
  ln(x + 8) - 0.5 / (x + 8) - 1 / (12 * power(x + 8, 2)) + 1 / (120 * power(x + 8, 4)) - 1 / (252 * power(x + 8, 6))
  + 1 / (240 * power(x + 8, 8))
  - (1 / x + 1 / (x + 1) + 1 / (x + 2) + 1 / (x + 3) + 1 / (x + 4) + 1 / (x + 5) + 1 / (x + 6) + 1 / (x + 7));
create macro trigamma(x) as
  1 / (x + 8) + 0.5 / power(x + 8, 2) + 1 / (6 * power(x + 8, 3)) - 1 / (30 * power(x + 8, 5)) + 1 / (42 * power(x + 8, 7))
  - 1 / (30 * power(x + 8, 9))
  + 1 / power(x, 2) + 1 / power(x + 1, 2) + 1 / power(x + 2, 2) + 1 / power(x + 3, 2) + 1 / power(x + 4, 2)
  + 1 / power(x + 5, 2) + 1 / power(x + 6, 2) + 1 / power(x + 7, 2);
create macro tetragamma(x) as
  -1 / power(x + 8, 2) - 1 / power(x + 8, 3) - 0.5 / power(x + 8, 4) + 1 / (6 * power(x + 8, 6)) - 1 / (6 * power(x + 8, 8))
  - 2 * (1 / power(x, 3) + 1 / power(x + 1, 3) + 1 / power(x + 2, 3) + 1 / power(x + 3, 3) + 1 / power(x + 4, 3)
         + 1 / power(x + 5, 3) + 1 / power(x + 6, 3) + 1 / power(x + 7, 3));

-- inverse_trigamma: x with trigamma(x) = value, by eight steps of Newton's method on 1 / trigamma; for 1e-4 to 100 it has
-- all digits.
create macro inverse_trigamma(value) as
  list_reduce([0.5 + 1 / value, 1, 2, 3, 4, 5, 6, 7, 8],
              lambda x, step: x + trigamma(x) * (1 - trigamma(x) / value) / tetragamma(x));

-- log_t_density: log density at x of Student's t with dof degrees of freedom about a centre; scale is squared.
create macro log_t_density(x, centre, scale, dof) as
  log_gamma_half(dof / 2) - 0.5 * ln(pi() * dof * scale)
  - (dof + 1) / 2 * ln(1 + (x - centre) * (x - centre) / (dof * scale));

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

-- as_normal: z with the tail of a standard normal that t has, dof being 16 or more (Hill 1970, CACM algorithm 395); square
-- is (dof - 1/2) ln(1 + t^2 / dof).
create macro as_normal(square, dof) as
  sqrt(square) * (1 + (square + 3 + (((-0.4 * square - 3.3) * square - 24) * square - 85.5)
                                    / (0.8 * square * square + 100 + 48 * (dof - 0.5) * (dof - 0.5)))
                      / (48 * (dof - 0.5) * (dof - 0.5)));

-- added_terms: 1 + the ratios of the second to eighth term of I_x(a, 1/2) = term(a) + I_x(a + 1, 1/2) to the first.
create macro added_terms(x, a) as
  1 + x * (a + 0.5) / (a + 1) * (1 + x * (a + 1.5) / (a + 2) * (1 + x * (a + 2.5) / (a + 3)
  * (1 + x * (a + 3.5) / (a + 4) * (1 + x * (a + 4.5) / (a + 5) * (1 + x * (a + 5.5) / (a + 6)
  * (1 + x * (a + 6.5) / (a + 7)))))));

-- log_t_upper_tail: log Pr[T > t] of Student's t for t >= 0, half the regularized incomplete beta I_x(a, 1/2) with
-- a = dof / 2 and x = dof / (dof + t^2): eight terms of its recurrence, and the tail of a t with 16 more degrees of freedom,
-- taken as normal. The error is below 1e-9 of the logarithm. 0.5723649429247001 is ln(pi) / 2.
create macro first_log_term(log_x, a) as a * log_x - ln(2 * a) + log_gamma_half(a) - 0.5723649429247001;
create macro log_sum_of(first, factor, rest) as
  greatest(first, rest) + ln(exp(first - greatest(first, rest)) * factor + exp(rest - greatest(first, rest)));
create macro log_t_upper_tail(t, dof) as
  log_sum_of(first_log_term(-ln(1 + t * t / dof), dof / 2),
             abs(t) / sqrt(dof + t * t) * added_terms(dof / (dof + t * t), dof / 2),
             list_transform([as_normal((dof + 15.5) * ln(1 + t * t / dof), dof + 16)], lambda z: log_upper_tail(z))[1]);

-- log_t_tail: log Pr[T > t] of Student's t, accurate on both sides.
create macro log_t_tail(t, dof) as
  list_transform([log_t_upper_tail(t, dof)],
                 lambda upper: case when t >= 0 then upper
                                    when upper < -15 then -exp(upper) * (1 + exp(upper) / 2)
                                    else ln(1 - exp(upper)) end)[1];

-- smallest: the n smallest values of a group as a list, ascending; an aggregate. NULLs are left out.
create macro smallest(x, n) as min(x, n);

-- wilson_low, wilson_high: Wilson's (1927) 95% interval of a share seen in n trials; 3.841458820694124 is z squared.
create macro wilson_low(share, n) as
  (share + 3.841458820694124 / (2 * n)
   - 1.959963984540054 * sqrt(share * (1 - share) / n + 3.841458820694124 / (4.0 * n * n))) / (1 + 3.841458820694124 / n);
create macro wilson_high(share, n) as
  (share + 3.841458820694124 / (2 * n)
   + 1.959963984540054 * sqrt(share * (1 - share) / n + 3.841458820694124 / (4.0 * n * n))) / (1 + 3.841458820694124 / n);
