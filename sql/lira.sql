-- LiRA (Carlini et al. 2022): how much likelier is the target's phi under the shadow runs that trained on the
-- sample than under those that did not. Plain views alone (query < 1024): range neighbours are other records.
-- Parameters: $target  [run]  the run under attack, left out of its own fit
--             $mode    ['online', 'offline'; default 'online']  log ratio of the two Gaussians, or -log Pr(Z > phi) with Z
--                      fitted to out-runs
--             $center  ['mean', 'median'; default 'mean']  of the shadow runs' phi
--             $variance ['sample', 'pooled'; default select case when count(distinct run) < 64 then 'pooled' else 'sample' end
--                      from signals where run <> $target and run in (select run from runs where role = 'shadow')]
--                      each sample's own, or mean square residual over all samples
-- Reads:  phi_medians  (sample_id, query, median_in, median_out) over the same runs, used for $center 'median' alone;
--                      an engine without one makes it a view with percentile_cont
-- Grain: one row a sample of the audit pool; score is the mean over queries, NULL where a fit is missing.
with fitting as (
  select sample_id, query, member, phi
  from signals
  where query < 1024 and run <> $target and run in (select run from runs where role = 'shadow')
),
moments as (
  select sample_id, query,
         count(*) filter (where member) as n_in,
         count(*) filter (where not member) as n_out,
         avg(phi) filter (where member) as mean_in,
         avg(phi) filter (where not member) as mean_out,
         var_pop(phi) filter (where member) as own_var_in,
         var_pop(phi) filter (where not member) as own_var_out
  from fitting
  group by sample_id, query
),
centred as (
  select moments.sample_id, moments.query, n_in, n_out, mean_in, mean_out, own_var_in, own_var_out,
         case $center when 'median' then median_in else mean_in end as centre_in,
         case $center when 'median' then median_out else mean_out end as centre_out
  from moments
  join samples on samples.sample_id = moments.sample_id and samples.pool = 'audit'
  left join phi_medians on phi_medians.sample_id = moments.sample_id and phi_medians.query = moments.query
),
pooled as (
  select sum(n_in * (own_var_in + (mean_in - centre_in) * (mean_in - centre_in))) / sum(n_in) as var_in,
         sum(n_out * (own_var_out + (mean_out - centre_out) * (mean_out - centre_out))) / sum(n_out) as var_out
  from centred
),
fits as (
  select centred.sample_id, query, n_in, n_out, centre_in, centre_out,
         within_floor(case when $variance = 'pooled' then pooled.var_in else own_var_in end) as var_in,
         within_floor(case when $variance = 'pooled' then pooled.var_out else own_var_out end) as var_out
  from centred cross join pooled
),
attacked as (
  select signals.sample_id, signals.query, signals.member, signals.phi::double as phi
  from signals
  join samples on samples.sample_id = signals.sample_id and samples.pool = 'audit'
  where signals.run = $target and signals.query < 1024
),
answers as (
  select attacked.sample_id, attacked.query, attacked.member, attacked.phi,
         coalesce(n_in, 0) as n_in, coalesce(n_out, 0) as n_out, centre_in, centre_out, var_in, var_out,
         case $mode
           when 'offline' then case when n_out > 0 then -log_normal_tail((phi - centre_out) / sqrt(var_out)) end
           else case when n_in > 0 and n_out > 0
                     then log_normal_density(phi, centre_in, var_in) - log_normal_density(phi, centre_out, var_out) end
         end as evidence
  from attacked
  left join fits on fits.sample_id = attacked.sample_id and fits.query = attacked.query
)
select sample_id,
       bool_or(member) as member,
       case when count(evidence) = count(*) then avg(evidence) end as score,
       min(n_in) as n_in,
       min(n_out) as n_out,
       max(phi) filter (where query = 0) as phi,
       max(centre_in) filter (where query = 0) as centre_in,
       max(centre_out) filter (where query = 0) as centre_out,
       max(sqrt(var_in)) filter (where query = 0) as sd_in,
       max(sqrt(var_out)) filter (where query = 0) as sd_out
from answers
group by sample_id
order by sample_id
