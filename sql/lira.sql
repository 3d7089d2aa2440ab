-- LiRA (Carlini et al. 2022): how much likelier is the target's phi under the shadow runs that trained on the
-- sample than under those that did not. Plain views alone (query < 1024): range neighbours are other records.
-- Gaussians, or with $variance 'bayes' what is expected of the next value where mean and variance are not known but estimated:
-- Student's t (Braennvall 2026, arXiv 2603.11799).
-- Parameters: $target  [run]  the run under attack, left out of its own fit
--             $mode    ['online', 'offline'; default 'online']  log ratio of the two densities, or -log Pr(Z > phi) with Z
--                      fitted to out-runs
--             $center  ['mean', 'median'; default 'mean']  of the shadow runs' phi
--             $variance ['bayes', 'sample', 'pooled'; default 'bayes']  each sample's own, drawn to what all samples have by a prior
--                      fitted to them; its own alone; or mean square residual over all samples
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
-- What does not vary was rounded, and says nothing of variances.
varying as (
  select case when n_in > 1 and own_var_in > within_floor(0) then n_in - 1 end as weight_in,
         case when n_out > 1 and own_var_out > within_floor(0) then n_out - 1 end as weight_out,
         case when own_var_in > within_floor(0) then n_in * own_var_in end as squares_in,
         case when own_var_out > within_floor(0) then n_out * own_var_out end as squares_out
  from centred
  where $variance = 'bayes'
),
-- With d = n - 1, the log of squares / 2 less digamma(d / 2) scatters about the log of a sample's true variance by
-- trigamma(d / 2) (Smyth 2004, section 6.2).
log_variances as (
  select weight_in, weight_out,
         ln(squares_in / 2) - digamma(weight_in / 2) as level_in, trigamma(weight_in / 2) as noise_in,
         ln(squares_out / 2) - digamma(weight_out / 2) as level_out, trigamma(weight_out / 2) as noise_out
  from varying
),
spreads as (
  select sum(weight_in * level_in) / sum(weight_in) as level_in,
         sum(weight_in * level_in * level_in) / sum(weight_in) as square_in,
         sum(weight_in * noise_in) / sum(weight_in) as noise_in,
         sum(weight_out * level_out) / sum(weight_out) as level_out,
         sum(weight_out * level_out * level_out) / sum(weight_out) as square_out,
         sum(weight_out * noise_out) / sum(weight_out) as noise_out
  from log_variances
),
halves as (
  select level_in, level_out,
         inverse_trigamma(coalesce(least(greatest(square_in - level_in * level_in - noise_in, 1e-4), 100), 1e-4)) as half_in,
         inverse_trigamma(coalesce(least(greatest(square_out - level_out * level_out - noise_out, 1e-4), 100), 1e-4)) as half_out
  from spreads
),
-- The prior: variances are inverse gamma, with 2 half degrees of freedom, and scale prior_in or prior_out; 0 where none varies.
priors as (
  select half_in, half_out, pooled.var_in, pooled.var_out,
         coalesce(exp(level_in + digamma(half_in) - ln(half_in)), 0) as prior_in,
         coalesce(exp(level_out + digamma(half_out) - ln(half_out)), 0) as prior_out
  from halves cross join pooled
),
fits as (
  select centred.sample_id, query, n_in, n_out, centre_in, centre_out,
         case when $variance = 'bayes' then 2 * half_in + n_in - 1 end as dof_in,
         case when $variance = 'bayes' then 2 * half_out + n_out - 1 end as dof_out,
         within_floor(case $variance
           when 'pooled' then priors.var_in
           when 'bayes' then (2 * half_in * prior_in + n_in * own_var_in) / (2 * half_in + n_in - 1) * (1 + 1 / n_in)
           else own_var_in end) as var_in,
         within_floor(case $variance
           when 'pooled' then priors.var_out
           when 'bayes' then (2 * half_out * prior_out + n_out * own_var_out) / (2 * half_out + n_out - 1) * (1 + 1 / n_out)
           else own_var_out end) as var_out
  from centred cross join priors
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
         case when not ($mode = 'offline' or n_in > 0) or not n_out > 0 then null
              when $mode = 'offline' and $variance = 'bayes' then -log_t_tail((phi - centre_out) / sqrt(var_out), dof_out)
              when $mode = 'offline' then -log_normal_tail((phi - centre_out) / sqrt(var_out))
              when $variance = 'bayes'
              then log_t_density(phi, centre_in, var_in, dof_in) - log_t_density(phi, centre_out, var_out, dof_out)
              else log_normal_density(phi, centre_in, var_in) - log_normal_density(phi, centre_out, var_out) end as evidence
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
       max(case when n_in > 0 then sqrt(var_in) end) filter (where query = 0) as sd_in,
       max(case when n_out > 0 then sqrt(var_out) end) filter (where query = 0) as sd_out
from answers
group by sample_id
order by sample_id
